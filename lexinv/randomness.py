"""Keys whose draws depend on nothing but themselves."""

import jax
from jaxtyping import Array, Key


def threefry(key: Key[Array, "*keys"]) -> Key[Array, "*keys"]:
    """The same key, or keys, of the implementation under which `vmap` over keys or ids draws what each would draw alone.

    The keys that `jax_default_prng_impl` makes of type rbg or unsafe_rbg do not: under `vmap` all numbers come from the first of them
    (see the table "Advanced RNG configuration" of `jax.random`). A threefry key stays as it is. One of type rbg that was derived from a
    seed becomes what threefry would have derived, since its four words are that key twice.

    Apply it before the first `fold_in` or `split` under `vmap`: those of unsafe_rbg already draw from the first key alone.
    """
    return jax.random.wrap_key_data(jax.random.key_data(key)[..., :2], impl="threefry2x32")
