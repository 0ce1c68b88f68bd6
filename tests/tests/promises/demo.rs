//! The first command that a reader tries: the demo runs to its end, swaps policies, and loses no request.

use outrigger_tests::program::run;

#[test]
fn the_demo_swaps_policies_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(&["demo", "--plain", "--seconds", "12"], dir.path()).expect_ok("outrigger demo");
    for policy in ["round-robin", "peak-ewma", "trap"] {
        assert!(said.out.contains(policy), "{policy} is missing:\n{}", said.out);
    }
}
