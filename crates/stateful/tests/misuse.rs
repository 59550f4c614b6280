//! Wrong use of `#[stateful]` does not compile, and the message says what to do.

#[test]
fn wrong_use_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
