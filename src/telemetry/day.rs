//! Days of the calendar, in UTC, as numbers: a report begins and ends with one, and moments are written by theirs.
//!
//! # Source
//! Howard Hinnant, "chrono-compatible low-level date algorithms".

use std::time::Duration;

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// Days since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(pub i64);

impl Day {
    /// Returns the day of a time in milliseconds since 1970.
    pub fn of(at_ms: i64) -> Self {
        Self(at_ms.div_euclid(DAY_MS))
    }

    /// Returns when it begins, in milliseconds since 1970.
    pub fn begin_ms(self) -> i64 {
        self.0 * DAY_MS
    }

    /// Returns the day of `2026-11-22`; `None` for what is no day of the years 1970 to 9999.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<i64>().ok())?
        };
        let (year, month, day) = (part(4)?, part(2)?, part(2)?);
        if parts.next().is_some() || year < 1970 || !(1..=12).contains(&month) {
            return None;
        }
        // Years begin in March, so that the odd day comes last.
        let (shifted_year, shifted_month) =
            if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
        let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let found = Self(era * 146_097 + day_of_era - 719_468);
        // A day that the month has not would be one of the next.
        (found.to_string() == text).then_some(found)
    }
}

/// Returns the second of a time as RFC 3339 has it, in UTC, without fraction and zone: `2026-11-22T06:46:39`.
pub fn second_of(since_1970: Duration) -> String {
    let (day, second) = (since_1970.as_secs() / 86_400, since_1970.as_secs() % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}", Day(day.cast_signed()))
}

impl std::fmt::Display for Day {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shifted = self.0 + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let rows = [
            ("1970-01-01", 0),
            ("1970-03-01", 59),
            ("2000-02-29", 11_016),
            ("2024-02-29", 19_782),
            ("2026-11-22", 20_779),
            ("9999-12-31", 2_932_896),
        ];
        for (text, number) in rows {
            assert_eq!(Day::parse(text), Some(Day(number)), "{text}");
            assert_eq!(Day(number).to_string(), text);
        }
        for text in [
            "2026-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-01-32",
            "26-01-01",
            "",
            "2026-1-1",
            "2026-01-01-",
        ] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
        for number in 0..60_000 {
            assert_eq!(Day::parse(&Day(number).to_string()), Some(Day(number)));
        }
        assert_eq!(Day::of(-1), Day(-1));
        assert_eq!(Day::of(DAY_MS), Day(1));
    }
}
