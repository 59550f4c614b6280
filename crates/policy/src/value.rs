//! The values that conditions are written in. Parsing checks the rule once.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// Defines how a type that is written as text is read and shown, by its `parse` and `Display`.
macro_rules! text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

/// Defines an enum that is written as one of a few words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $($(#[$each:meta])* $variant:ident = $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum $name {
            $($(#[$each])* $variant),+
        }

        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable word.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(Invalid::new($what, $rule)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.code())
            }
        }

        text!($name);
    };
}

words!(
    /// What a policy decides when it applies.
    Effect, "effect", "allow or deny",
    /// It may be done.
    Allow = "allow",
    /// It may not be done.
    Deny = "deny",
);

words!(
    /// What somebody wants to do with a tool.
    Action, "actions", "read, execute, admin or reveal",
    /// See that it exists, and its definition.
    Read = "read",
    /// Call it.
    Execute = "execute",
    /// Change it.
    Admin = "admin",
    /// Show the secret that calls are made with.
    Reveal = "reveal",
);

words!(
    /// A day of the week.
    Day, "days", "mon, tue, wed, thu, fri, sat or sun",
    /// Monday.
    Monday = "mon",
    /// Tuesday.
    Tuesday = "tue",
    /// Wednesday.
    Wednesday = "wed",
    /// Thursday.
    Thursday = "thu",
    /// Friday.
    Friday = "fri",
    /// Saturday.
    Saturday = "sat",
    /// Sunday.
    Sunday = "sun",
);

words!(
    /// How long a window of calls is.
    Period, "per", "minute, hour or day",
    /// 60 seconds.
    Minute = "minute",
    /// 60 minutes.
    Hour = "hour",
    /// 24 hours.
    Day = "day",
);

impl Period {
    /// Its length.
    #[must_use]
    pub fn seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 60 * 60,
            Self::Day => 24 * 60 * 60,
        }
    }
}

words!(
    /// Whose calls are counted together.
    Subject, "of", "agent, tool or tree",
    /// Those of one agent.
    Agent = "agent",
    /// Those of one tool.
    Tool = "tool",
    /// Those of one tree.
    Tree = "tree",
);

/// A time of day, to the minute; `24:00` is the end of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    /// Minutes since midnight, 0 to 1440.
    #[must_use]
    pub fn minute(self) -> u16 {
        self.0
    }
}

impl FromStr for TimeOfDay {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || Invalid::new("time", "HH:MM from 00:00 to 24:00");
        let two = |part: &str| {
            let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse::<u16>().ok()).flatten()
        };
        let (hours, minutes) = text.split_once(':').ok_or_else(invalid)?;
        let (hours, minutes) = two(hours).zip(two(minutes)).ok_or_else(invalid)?;
        let minute = hours * 60 + minutes;
        if minutes > 59 || minute > 24 * 60 {
            return Err(invalid());
        }
        Ok(Self(minute))
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

text!(TimeOfDay);

/// A time zone of the bundled database, under its own name: every instance of one build agrees on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(String);

impl Zone {
    /// Its name: `Europe/Berlin`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Zone {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || Invalid::new("zone", "a time zone's name, such as Europe/Berlin or UTC");
        let zone = jiff::tz::db().get(text).map_err(|_| invalid())?;
        let name = zone.iana_name().ok_or_else(invalid)?;
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text!(Zone);

/// A length of time in whole seconds, written as `30d`, `8h` or `5m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(u32);

impl Span {
    /// Its seconds, at least one.
    #[must_use]
    pub fn seconds(self) -> u32 {
        self.0
    }
}

impl FromStr for Span {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || Invalid::new("age", "a time such as 30d, 8h or 5m, from 1s to 10 years");
        let duration = humantime::parse_duration(text).map_err(|_| invalid())?;
        let seconds = u32::try_from(duration.as_secs()).map_err(|_| invalid())?;
        if duration.subsec_nanos() > 0 || !(1..=10 * 366 * 24 * 60 * 60).contains(&seconds) {
            return Err(invalid());
        }
        Ok(Self(seconds))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(Duration::from_secs(self.0.into())).fmt(f)
    }
}

text!(Span);

/// A JSON pointer to a parameter of the call (RFC 6901): `/region`, `/items/0/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pointer(String);

impl Pointer {
    /// It, as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pointer {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bounds = text.starts_with('/') && text.len() <= 200;
        let printable = !text.chars().any(char::is_control);
        let escapes = text
            .split('~')
            .skip(1)
            .all(|rest| rest.starts_with(['0', '1']));
        if bounds && printable && escapes {
            Ok(Self(text.to_owned()))
        } else {
            let rule = "a JSON pointer such as /region, of at most 200 characters";
            Err(Invalid::new("pointer", rule))
        }
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text!(Pointer);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_keeps_its_rule() {
        for good in ["00:00", "08:30", "24:00"] {
            assert_eq!(good.parse::<TimeOfDay>().unwrap().to_string(), good);
        }
        for bad in ["8:00", "24:01", "12:60", "aa:00", "+1:00", "12:00:00", ""] {
            assert!(bad.parse::<TimeOfDay>().is_err(), "{bad}");
        }
        for good in ["/region", "/a~1b/0", "/ä"] {
            assert!(good.parse::<Pointer>().is_ok(), "{good}");
        }
        for bad in ["", "region", "/a~2", "/a~", "/a\nb"] {
            assert!(bad.parse::<Pointer>().is_err(), "{bad}");
        }
        assert_eq!("30d".parse::<Span>().unwrap().seconds(), 2_592_000);
        for bad in ["0s", "30", "-1d", "1ms", "100years"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert_eq!(
            "europe/berlin".parse::<Zone>().unwrap().as_str(),
            "Europe/Berlin"
        );
        assert!("Europe/Nowhere".parse::<Zone>().is_err());
    }
}
