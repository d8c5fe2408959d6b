"""Reasoning that nobody sees and that is billed by the token: what an audit of embeddings notices of padding, and what it does not.

CoIn (Sun et al. 2025, arXiv 2505.13778); method card coin-token-audit. Providers pad worked traces in eight ways. The auditor opens some
blocks of the committed fingerprints; heads that are trained on three domains say whether tokens belong to their block and blocks to the
question, a verifier whether the trace is padded, with a threshold from honest traces alone. On the fourth domain nothing is trained. Beside
it at the same exposure: what needs no training, and what the paper lacks, a look for copies. Its body was not at hand: attacks, heads and
verifier are ours, and 94.7 % detection is quoted from the abstract, not reproduced.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric
from experiments.harness.figures import legend_beside, lines
from experiments.harness.presets import presets
from experiments.harness.style import panels
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.audited_traces import Billing, Traces
from experiments.subjects.dialogue_models import TINY, DialogueModels, DialogueWorld
from experiments.subjects.token_auditors import PAPER, SIDES, Auditing, counted, judged, trained_audits
from lexinv.decoding.token_audit import ATTACKS
from lexinv.validation import Checked

PAPERS = ("sun2025coin",)
NAIVE, ATTACKED = PAPER[:3], PAPER[:4]
"""The naive attacks, and those with the first adaptive one."""
BASELINES = {
    "rule": "heads, mean against a threshold",
    "cosine": "cosines without heads",
    "types": "distinct tokens",
    "zlib": "zlib of fingerprints",
}


@dataclass(frozen=True)
class Config(Checked):
    dialogues: DialogueModels = DialogueModels()
    auditing: Auditing = Auditing()

    def checks(self):
        seeds = self.dialogues.training.seeds
        yield self.auditing.heads.seeds == seeds, "auditing.heads.seeds", f"dialogues.training.seeds = {seeds}"
        yield self.dialogues.world.domains >= 2, "dialogues.world.domains", "at least 2, of which one is held out"
        billing, most = self.auditing.billing, self.dialogues.large.max_length
        longest = max(min(billing.own) + 5, billing.blocks[-1] + 2)
        yield longest <= most, "auditing.billing", f"questions and blocks that fit into {most} tokens"


PRESETS = presets(
    Config(),
    smoke={
        **TINY,
        "auditing.billing": Billing(sentences=8, own=(4,), blocks=(4, 8), looks=(1, 2)),
        "auditing.pairs": 64,
        "auditing.sessions": 4,
        "auditing.honest": 20,
        "auditing.hidden": (8,),
        "auditing.target": 0.1,
        "auditing.counted": 1,
        "auditing.read": 2,
        "auditing.heads.steps": 20,
        "auditing.heads.batch_size": 16,
        "auditing.heads.seeds": (0, 1),
        "auditing.heads.optimizer.warmup_steps": 5,
        "auditing.heads.steps_per_dispatch": 20,
    },
    quick={"dialogues.training.seeds": (0,), "auditing.heads.seeds": (0,)},
    paper={
        "auditing.billing": Billing(sentences=96, own=(80, 64, 48, 32, 24), blocks=(56, 112), looks=(1, 2)),
        "auditing.pairs": 65_536,
        "auditing.sessions": 200,
        "auditing.honest": 4000,
        "auditing.hidden": (256, 64),
        "auditing.heads.steps": 20_000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """arms[ARM BLOCK]: caught [seed][look][side][attack][rate] and alarms [seed][look][side]. exposed, by block: of honest sessions."""
    auditing, billing, seeds = config.auditing, config.auditing.billing, config.auditing.heads.seeds
    models = DialogueWorld(config.dialogues, workspace).large
    traces = [Traces(config.dialogues, billing, *one) for one in zip(models, seeds, strict=True)]
    audits = trained_audits(auditing, traces, workspace)

    def committed(seed: str) -> dict[str, Any]:
        return counted(auditing, traces[seeds.index(int(seed))])

    rows = workspace.stages("audits", audits, lambda name: judged(audits[name]))
    arms, exposed = {}, {}
    for block in billing.blocks:
        of_block = [rows[f"{seed}-{block}"] for seed in seeds]
        for arm in of_block[0]["arms"]:
            arms[f"{arm} {block}"] = by_metric([row["arms"][arm] for row in of_block])
        exposed[str(block)] = [row["exposed"] for row in of_block]
    return {
        "seeds": seeds,
        "attacks": list(ATTACKS),
        "rates": billing.rates,
        "exposures": billing.exposures,
        "blocks": billing.blocks,
        "arms": arms,
        "exposed": exposed,
        "commitments": by_metric(list(workspace.stages("commitments", map(str, seeds), committed).values())),
    }


def caught(
    results: Mapping[str, Any], arm: str, rate: float, side: str = SIDES[0], look: int = -2
) -> dict[str, np.ndarray]:
    """By attack the share that is caught [seeds], by default after the last look but one."""
    found = Arms(results)[arm, "caught"][:, look, SIDES.index(side), :, results["rates"].index(rate)]
    return dict(zip(results["attacks"], found.T, strict=True))


def claims(results: Mapping[str, Any]) -> list[Claim]:
    paper, arms, blocks = "sun2025coin", Arms(results), results["blocks"]
    small, large = f"learned {blocks[0]}", f"learned {blocks[-1]}"
    even = min(results["rates"], key=lambda rate: abs(rate - 1))
    found, held = (caught(results, small, even, side) for side in SIDES)
    copies = caught(results, f"copies {blocks[0]}", even, look=-1)
    recalibrated = arms[small, "recalibrated"][:, -2, :, results["rates"].index(even)]
    at = [results["attacks"].index(attack) for attack in ATTACKED]
    covered = {arm: arms[arm, "caught"][:, -2, 0, : len(PAPER)].mean(axis=(1, 2)) for arm in (small, large)}
    exposed = {block: np.array(results["exposed"][str(block)]) for block in (blocks[0], blocks[-1])}
    commitments = {name: np.array(values) for name, values in results["commitments"].items()}
    unit, sizes = "share of padded traces", f"blocks of {blocks[0]} less {blocks[-1]}"
    return [
        Claim(
            "naive_caught",
            "Traces that are padded naively, by as many tokens as they have, are caught.",
            f"{paper}: abstract",
            {attack: found[attack] for attack in NAIVE},
            above(0.95),
            unit,
            "up to 0.947 (quoted)",
        ),
        Claim(
            "held_out_domain",
            "So they are on a domain that heads and verifier have not seen, those of similar tokens too, and honest traces pass.",
            f"{paper}: abstract",
            {attack: held[attack] for attack in ATTACKED}
            | {"false alarms": arms[small, "alarms"][:, -2, 1]}
            | {"least caught with a threshold from its own honest traces": recalibrated[:, at].min(axis=1)},
            {attack: above(0.9) for attack in ATTACKED} | {"false alarms": below(0.05)},
            "share of traces",
        ),
        Claim(
            "smaller_blocks_expose",
            "Smaller blocks catch more of the same opened tokens, and more is opened of an honest trace until the auditor is sure.",
            f"{paper}: reviews",
            {
                f"caught, {sizes}": covered[small] - covered[large],
                f"opened, {sizes}": exposed[blocks[0]] - exposed[blocks[-1]],
            },
            above(0),
            "share",
        ),
        Claim(
            "resampling_hardest",
            "Of the padding that the paper considers, the trace's own tokens drawn again are the hardest to catch.",
            f"{paper}: reviews",
            {f"{other} less resampled": found[other] - found["resampled"] for other in PAPER if other != "resampled"},
            above(0),
            unit,
            "0.747 for token-to-block checks of adaptive inflation 2",
        ),
        Claim(
            "self_copies_pass",
            "Copies of a trace's own blocks pass.",
            OURS,
            {"copied": found["self_copies"], "reworded": found["rewritten"]},
            {"copied": below(0.3)},
            unit,
        ),
        Claim(
            "duplicates_found",
            "A look for equal blocks among those that are open finds them.",
            OURS,
            {"copied": copies["self_copies"], "reworded": copies["rewritten"]},
            {"copied": above(0.9)},
            unit,
        ),
        Claim(
            "fingerprints_name_tokens",
            "What is opened can be read: trying every token names those of an opened block.",
            OURS,
            {"tokens that are named": commitments["named"]},
            above(0.9),
            "share of opened tokens",
        ),
        Claim(
            "count_binds_no_content",
            "A count alone catches a token that was never committed to, and no padding.",
            f"{paper}: abstract",
            {"one token more": commitments["one_more"], "padded": commitments["padded"]},
            {"one token more": above(0.99).every_seed, "padded": below(0.01).every_seed},
            "share of traces",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """What is caught over what is opened, by the size of blocks and by baselines; and attack by attack."""
    blocks, arms, rates = results["blocks"], Arms(results), results["rates"]
    titles = ("The paper's padding, seen domains", f"By attack, blocks of {blocks[0]}, seen domains")
    drawn, axes = panels(1, 2, width=5.6, height=3.8, titles=titles)
    shown = {f"verifier, blocks of {block}": f"learned {block}" for block in blocks}
    shown |= {label: f"{arm} {blocks[0]}" for arm, label in BASELINES.items()}
    caught_of = {label: arms[arm, "caught"][:, :, 0, : len(PAPER)].mean(axis=(2, 3)) for label, arm in shown.items()}
    lines(axes[0], results["exposures"], caught_of)
    axes[0].set(xlabel="share of billed tokens that is opened", ylabel="share of padded traces caught", ylim=(0, 1.02))
    axes[0].set_xticks(results["exposures"], [f"{x:.2f}" for x in results["exposures"]])
    axes[0].legend(loc="center right", bbox_to_anchor=(1.0, 0.44), fontsize=7)
    by_attack = {
        ATTACKS[attack]: arms[f"learned {blocks[0]}", "caught"][:, -2, 0, place]
        for place, attack in enumerate(results["attacks"])
    }
    lines(axes[1], rates, by_attack)
    axes[1].set(xlabel="tokens of padding over own tokens", ylim=(0, 1.02))
    axes[1].set_xticks(rates, [f"{rate:g}" for rate in rates])
    legend_beside(axes[1])
    return drawn
