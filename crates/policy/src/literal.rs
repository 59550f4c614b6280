//! Text as Cedar writes it. Whatever the text, it stays inside its quotes.

use std::fmt::Write as _;

/// A string, and the id of an entity.
pub(crate) fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    text.chars().for_each(|c| push(&mut quoted, c));
    quoted.push('"');
    quoted
}

/// The right side of `like`: `*` stays a wildcard, `\*` is a star, and every other character itself.
pub(crate) fn pattern(text: &str) -> String {
    let mut quoted = String::from("\"");
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.next_if_eq(&'*').is_some() => quoted.push_str("\\*"),
            '*' => quoted.push('*'),
            other => push(&mut quoted, other),
        }
    }
    quoted.push('"');
    quoted
}

fn push(quoted: &mut String, c: char) {
    let plain = (c.is_ascii_graphic() || c == ' ') && !matches!(c, '"' | '\\' | '*');
    if plain {
        quoted.push(c);
    } else {
        // Writing to a string cannot fail.
        let _ = write!(quoted, "\\u{{{:x}}}", c as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedar_policy::{Context, Entities, EvalResult, Expression, Request, eval_expression};
    use proptest::prelude::*;

    fn eval(text: &str) -> EvalResult {
        let uid = |text: &str| text.parse().unwrap();
        let request = Request::new(
            uid("Agent::\"a\""),
            uid("Action::\"execute\""),
            uid("Tool::\"t\""),
            Context::empty(),
            None,
        );
        let expression: Expression = text.parse().unwrap();
        eval_expression(&request.unwrap(), &Entities::empty(), &expression).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn no_value_escapes_its_literal(text in any::<String>()) {
            prop_assert_eq!(eval(&literal(&text)), EvalResult::String(text.clone()));
            let itself = format!("{} like {}", literal(&text), pattern(&text.replace('*', "\\*")));
            prop_assert_eq!(eval(&itself), EvalResult::Bool(true));
        }
    }

    #[test]
    fn a_star_in_a_value_is_no_wildcard() {
        let like =
            |text: &str, pat: &str| eval(&format!("{} like {}", literal(text), pattern(pat)));
        assert_eq!(like("eu-1", "eu-*"), EvalResult::Bool(true));
        assert_eq!(like("us-1", "eu-*"), EvalResult::Bool(false));
        assert_eq!(like("a*b", "a\\*b"), EvalResult::Bool(true));
        assert_eq!(like("axb", "a\\*b"), EvalResult::Bool(false));
    }
}
