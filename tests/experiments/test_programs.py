"""What is read from compiled programs: counted in a small one."""

from experiments.harness.programs import collective_bytes, matrix_flops

PROGRAM = """\
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %x = f32[2,3]{1,0} parameter(0)
  %gathered = f32[4,2]{1,0} all-gather(%x), dimensions={0}
  %product = f32[2,5]{1,0} dot(%x, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="d"}
  ROOT %out = (s32[], /*index=1*/f32[4,2]{1,0}) tuple(%i, %gathered)
}

ENTRY %main (x: f32[4,2]) -> f32[4,2] {
  %loop = (s32[], f32[4,2]) while(%start), condition=%less, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  %both = (f32[3]{0}, /*index=1*/bf16[5,2]{1,0}) all-reduce(%g, %h), to_apply=%add
  %z = f32[7,2,3]{2,1,0} copy(%y)
  %many = f32[7,3,9]{2,1,0} dot(%z, %y), lhs_batch_dims={0}, lhs_contracting_dims={1}, rhs_batch_dims={0}, rhs_contracting_dims={1}
  ROOT %done = f32[4,2] copy(%y)
}
"""


def test_collectives_are_counted_as_often_as_they_run():
    assert collective_bytes(PROGRAM) == {"all-gather": 12 * 4 * 2 * 4, "all-reduce": 3 * 4 + 10 * 2}


def test_products_are_counted_as_often_as_they_run():
    assert matrix_flops(PROGRAM) == 12 * 2 * (2 * 5) * 3 + 2 * (7 * 3 * 9) * 2
