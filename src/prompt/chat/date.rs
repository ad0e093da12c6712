//! A time as templates ask for it: `strftime_now("%d %b %Y")`, in UTC.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

const DAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A day and a time of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Date {
    year: u64,
    /// From 0.
    month: usize,
    /// From 1.
    day: u64,
    weekday: usize,
    /// From 1.
    day_of_year: u64,
    seconds: u64,
}

impl Date {
    /// Counts from the first of January 1970, a Thursday.
    fn of(since_1970: Duration) -> Self {
        let (mut days, seconds) = (since_1970.as_secs() / 86_400, since_1970.as_secs() % 86_400);
        let weekday = (days % 7) as usize;
        let is_leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        // A clock that is far off would be counted for a long time.
        days %= 400 * 146_097;
        let mut year = 1970;
        while days >= 365 + u64::from(is_leap(year)) {
            days -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let day_of_year = days + 1;
        let february = 28 + u64::from(is_leap(year));
        let mut month = 0;
        for num_days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < num_days {
                break;
            }
            days -= num_days;
            month += 1;
        }
        Self { year, month, day: days + 1, weekday, day_of_year, seconds }
    }

    /// Writes one field; a letter that we do not know as it stands.
    fn push(&self, field: char, text: &mut String) {
        let (hour, minute, second) =
            (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
        let _ = match field {
            'Y' => write!(text, "{:04}", self.year),
            'y' => write!(text, "{:02}", self.year % 100),
            'm' => write!(text, "{:02}", self.month + 1),
            'B' => write!(text, "{}", MONTHS[self.month]),
            'b' | 'h' => write!(text, "{}", &MONTHS[self.month][..3]),
            'd' => write!(text, "{:02}", self.day),
            'e' => write!(text, "{:2}", self.day),
            'j' => write!(text, "{:03}", self.day_of_year),
            'A' => write!(text, "{}", DAYS[self.weekday]),
            'a' => write!(text, "{}", &DAYS[self.weekday][..3]),
            'H' => write!(text, "{hour:02}"),
            'I' => write!(text, "{:02}", (hour + 11) % 12 + 1),
            'p' => write!(text, "{}", if hour < 12 { "AM" } else { "PM" }),
            'M' => write!(text, "{minute:02}"),
            'S' => write!(text, "{second:02}"),
            'F' => write!(text, "{:04}-{:02}-{:02}", self.year, self.month + 1, self.day),
            'T' => write!(text, "{hour:02}:{minute:02}:{second:02}"),
            'Z' => write!(text, "UTC"),
            '%' => write!(text, "%"),
            other => write!(text, "%{other}"),
        };
    }
}

/// Writes a time in C's words; `%-d` has no zero in front.
pub(super) fn format(now: SystemTime, pattern: &str) -> String {
    let date = Date::of(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let mut text = String::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match rest.next() {
            Some('-') => {
                let mut field = String::new();
                rest.next().into_iter().for_each(|c| date.push(c, &mut field));
                let short = field.trim_start_matches(['0', ' ']);
                text.push_str(if short.is_empty() { "0" } else { short });
            }
            Some(field) => date.push(field, &mut text),
            None => text.push('%'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_times_as_c_does() {
        let rows = [
            (0, "%A %d %B %Y %H:%M:%S", "Thursday 01 January 1970 00:00:00"),
            (951_782_399, "%F %T %j %p", "2000-02-28 23:59:59 059 PM"),
            (951_782_400, "%a %-d %b %y", "Tue 29 Feb 00"),
            (1_735_603_200, "%j %e %I%p", "366 31 12AM"),
            (1_763_752_063, "%d %b %Y, %-H.%M", "21 Nov 2025, 19.07"),
            (4_102_444_800, "%Y-%m-%d %Z 100%% %Q %", "2100-01-01 UTC 100% %Q %"),
        ];
        for (seconds, pattern, expected) in rows {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(format(now, pattern), expected, "{seconds}");
        }
    }
}
