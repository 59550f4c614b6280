//! What those who guess passwords try first.
//!
//! Length alone does not make a password: `passwordpassword` has sixteen characters. What is common, a
//! pattern or somebody's name counts for one character, however long it is; what is left has to be
//! enough. An operator can add a list of whole passwords.

use aws_lc_rs::digest::{SHA256, digest};
use std::{collections::HashSet, fmt};

/// Words that many passwords are made of, in what becomes of them after [`plain`].
const COMMON: &[&str] = &[
    "password",
    "passwort",
    "passwd",
    "kennwort",
    "motdepasse",
    "contrasena",
    "passphrase",
    "pass",
    "welcome",
    "willkommen",
    "bienvenue",
    "letmein",
    "login",
    "logon",
    "signin",
    "access",
    "zugang",
    "admin",
    "administrator",
    "root",
    "user",
    "guest",
    "test",
    "testing",
    "default",
    "change",
    "changeme",
    "changeit",
    "secret",
    "geheim",
    "secure",
    "security",
    "private",
    "master",
    "server",
    "system",
    "computer",
    "internet",
    "office",
    "company",
    "service",
    "support",
    "manager",
    "iloveyou",
    "loveyou",
    "love",
    "liebe",
    "lovely",
    "baby",
    "babygirl",
    "angel",
    "princess",
    "prinzessin",
    "sunshine",
    "sonnenschein",
    "flower",
    "butterfly",
    "schmetterling",
    "chocolate",
    "cookie",
    "banana",
    "orange",
    "cheese",
    "pepper",
    "ginger",
    "summer",
    "sommer",
    "winter",
    "spring",
    "autumn",
    "herbst",
    "monday",
    "montag",
    "friday",
    "freitag",
    "january",
    "januar",
    "february",
    "march",
    "april",
    "june",
    "july",
    "august",
    "september",
    "october",
    "oktober",
    "november",
    "december",
    "dezember",
    "dragon",
    "monkey",
    "tiger",
    "lion",
    "eagle",
    "shadow",
    "killer",
    "hunter",
    "ranger",
    "soldier",
    "batman",
    "superman",
    "spiderman",
    "pokemon",
    "starwars",
    "matrix",
    "phoenix",
    "mustang",
    "ferrari",
    "porsche",
    "mercedes",
    "harley",
    "football",
    "fussball",
    "soccer",
    "baseball",
    "basketball",
    "hockey",
    "tennis",
    "golfer",
    "jordan",
    "michael",
    "michelle",
    "jessica",
    "jennifer",
    "daniel",
    "thomas",
    "charlie",
    "george",
    "andrew",
    "joshua",
    "matthew",
    "robert",
    "william",
    "hannah",
    "nicole",
    "ashley",
    "amanda",
    "maggie",
    "buster",
    "hello",
    "hallo",
    "bonjour",
    "hola",
    "freedom",
    "freiheit",
    "whatever",
    "nothing",
    "trustno",
    "forever",
    "family",
    "familie",
    "money",
    "cash",
    "lucky",
    "happy",
    "friend",
    "friends",
    "jesus",
    "christ",
    "blessed",
    "heaven",
    "qwerty",
    "qwertz",
    "azerty",
    "abcdef",
    "correct",
    "horse",
    "battery",
    "staple",
    "london",
    "berlin",
    "paris",
    "germany",
    "deutschland",
    "england",
    "america",
    "google",
    "facebook",
    "apple",
    "microsoft",
    "windows",
    "linux",
    "ubuntu",
    "debian",
    "oracle",
    "cisco",
    "samsung",
    "iphone",
    "android",
    "temporal",
];
/// Keys in the order in which they lie beside each other, or in which they are counted.
const ROWS: &[&str] = &[
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiop",
    "qwertzuiop",
    "azertyuiop",
    "asdfghjkl",
    "qsdfghjklm",
    "zxcvbnm",
    "yxcvbnm",
    "wxcvbn",
    "01234567890",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm",
    "1q2w3e4r5t6y7u8i9o0p",
];
/// What is worth looking for in a row, in characters.
const STRETCH: usize = 3;

/// Passwords that an operator does not want to see, one digest each.
#[derive(Default)]
pub struct BlockList(HashSet<u64>);

impl BlockList {
    /// A list, one password a line.
    #[must_use]
    pub fn new(lines: &str) -> Self {
        let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        Self(lines.map(|line| short(&line.to_lowercase())).collect())
    }

    pub(crate) fn names(&self, password: &str) -> bool {
        self.0.contains(&short(&password.to_lowercase()))
    }
}

impl fmt::Debug for BlockList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockList({})", self.0.len())
    }
}

fn short(text: &str) -> u64 {
    let digest = digest(&SHA256, text.as_bytes());
    let first = digest.as_ref().first_chunk::<8>();
    first.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// How many characters a password is worth: each that is left alone, and one for everything else that
/// is common, a pattern, or one of these words.
pub(crate) fn worth(password: &str, context: &[&str]) -> usize {
    let typed: Vec<char> = password.to_lowercase().chars().collect();
    let read: Vec<char> = typed.iter().map(|c| plain(*c)).collect();
    let mut worth = 0;
    let mut at = 0;
    let mut seen: Vec<&[char]> = Vec::new();
    while at < typed.len() {
        let (typed, read) = (
            typed.get(at..).unwrap_or_default(),
            read.get(at..).unwrap_or_default(),
        );
        let chunk = [
            word(read, context),
            stretch(typed),
            stretch(read),
            same(typed),
        ];
        let length = chunk.into_iter().max().unwrap_or_default().max(1);
        let chunk = read.get(..length).unwrap_or_default();
        // What was there before is no news.
        let again = seen.contains(&chunk);
        if !again || length == 1 {
            worth += 1;
        }
        if length > 1 {
            seen.push(chunk);
        }
        at += length;
    }
    worth.min(distinct(&typed))
}

/// A password that is one piece several times is worth that piece.
fn distinct(typed: &[char]) -> usize {
    let periods = 1..=typed.len() / 2;
    let repeats = |period: &usize| {
        let shifted = typed.get(*period..).unwrap_or_default();
        typed.iter().zip(shifted).all(|(one, other)| one == other)
    };
    periods.into_iter().find(repeats).unwrap_or(typed.len())
}

/// The letter that is meant by a sign that looks like it.
fn plain(c: char) -> char {
    match c {
        '0' => 'o',
        '1' | '!' | '|' => 'i',
        '3' | '€' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' | '+' => 't',
        '8' => 'b',
        '9' => 'g',
        'ä' | 'à' | 'á' | 'â' => 'a',
        'ö' | 'ó' | 'ô' => 'o',
        'ü' | 'ú' | 'û' => 'u',
        'é' | 'è' | 'ê' => 'e',
        'ñ' => 'n',
        other => other,
    }
}

/// How much of the beginning is a known word.
fn word(read: &[char], context: &[&str]) -> usize {
    let begins = |word: &str| {
        let length = word.chars().count();
        let mut pairs = read.iter().zip(word.chars());
        let fits = length >= STRETCH && read.len() >= length && pairs.all(|(c, w)| *c == w);
        if fits { length } else { 0 }
    };
    let read_context = context.iter().map(|word| {
        let word: String = word.to_lowercase().chars().map(plain).collect();
        begins(&word)
    });
    let common = COMMON.iter().map(|word| begins(word));
    read_context.chain(common).max().unwrap_or_default()
}

/// How much of the beginning lies in a row, in either direction.
fn stretch(typed: &[char]) -> usize {
    let along = |row: &[char]| {
        let starts = 0..row.len();
        let run = |start: usize| {
            let row = row.get(start..).unwrap_or_default();
            typed
                .iter()
                .zip(row)
                .take_while(|(one, other)| one == other)
                .count()
        };
        starts.map(run).max().unwrap_or_default()
    };
    let longest = ROWS.iter().map(|row| {
        let forth: Vec<char> = row.chars().collect();
        let back: Vec<char> = row.chars().rev().collect();
        along(&forth).max(along(&back))
    });
    longest
        .max()
        .filter(|run| *run >= STRETCH)
        .unwrap_or_default()
}

/// How often the first character is there at the beginning.
fn same(typed: &[char]) -> usize {
    let first = typed.first();
    let run = typed.iter().take_while(|c| Some(*c) == first).count();
    if run >= STRETCH { run } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_or_a_pattern_is_worth_little() {
        for (password, most) in [
            ("passwordpassword", 1),
            ("P@ssw0rd12345678", 3),
            ("123456789012345", 6),
            ("qwertyuiopasdfgh", 2),
            ("aaaaaaaaaaaaaaaaaaaa", 1),
            ("abcabcabcabcabc", 3),
            ("x7$x7$x7$x7$x7$", 3),
            ("correcthorsebatterystaple", 4),
            ("mallory mallory 12", 7),
            ("m4llorym4llory1!", 4),
            ("summer2026summer2026", 10),
            ("poiuytrewqlkjhgfdsa", 2),
        ] {
            let worth = worth(password, &["mallory", "xylem"]);
            assert!(worth <= most, "{password}: {worth}");
        }
    }

    #[test]
    fn what_somebody_made_up_is_worth_what_it_is_long() {
        for (password, least) in [
            ("kolibri tanzt auf neun Dächern", 25),
            ("x7$Lq2mw", 8),
            ("vier Elche im Nebel, zwei Boote", 25),
        ] {
            let worth = worth(password, &["mallory", "xylem"]);
            assert!(worth >= least, "{password}: {worth}");
        }
    }

    #[test]
    fn a_list_names_whole_passwords_in_any_case() {
        let list = BlockList::new("Tr0ub4dor&3 and more\n\n  spaces around  \r\n");
        assert!(list.names("tr0ub4dor&3 AND more"));
        assert!(list.names("spaces around"));
        assert!(!list.names("spaces"));
        assert_eq!(format!("{list:?}"), "BlockList(2)");
    }
}
