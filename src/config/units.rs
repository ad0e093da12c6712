//! Sizes and times as people write them: `2GiB`, `1500ms`.

use std::time::Duration;

/// Units of a size, each with its bytes; the binary ones first, because printing takes the first that divides.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Units of a time, each with its milliseconds, falling.
const TIME_UNITS: &[(&str, u64)] = &[("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Returns the bytes of a size; a bare number is bytes. `None` where it is none or too large.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = if unit.is_empty() { 1 } else { factor(unit, SIZE_UNITS)? };
    number.checked_mul(factor)
}

/// Returns a size in the largest unit that keeps it whole.
pub(super) fn format_size(bytes: u64) -> String {
    format(bytes, &SIZE_UNITS[..4], "B")
}

/// Returns a time; a number without a unit is none, for seconds and milliseconds are both common.
pub(super) fn parse_time(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    Some(Duration::from_millis(number.checked_mul(factor(unit, TIME_UNITS)?)?))
}

/// Returns a time in the largest unit that keeps it whole; below a millisecond it is cut.
pub(super) fn format_time(time: Duration) -> String {
    format(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), TIME_UNITS, "ms")
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

fn factor(unit: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor)
}

fn format(value: u64, units: &[(&str, u64)], smallest: &str) -> String {
    let whole = units.iter().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor));
    whole.map_or_else(
        || format!("{value}{smallest}"),
        |(name, factor)| format!("{}{name}", value / factor),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes() {
        let rows = [
            ("0", Some(0)),
            ("8", Some(8)),
            ("2GiB", Some(2 << 30)),
            ("2 gib", Some(2 << 30)),
            ("512MiB", Some(512 << 20)),
            ("1kB", Some(1000)),
            ("3MB", Some(3_000_000)),
            ("7B", Some(7)),
            ("", None),
            ("GiB", None),
            ("-1", None),
            ("1.5GiB", None),
            ("2G", None),
            ("99999999TiB", None),
            ("99999999999999999999", None),
        ];
        for (text, bytes) in rows {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn reads_times() {
        let rows = [
            ("0s", Some(0)),
            ("1500ms", Some(1500)),
            ("30s", Some(30_000)),
            ("2m", Some(120_000)),
            ("1 h", Some(3_600_000)),
            ("30", None),
            ("", None),
            ("s", None),
            ("1.5s", None),
            ("18446744073709551615h", None),
        ];
        for (text, millis) in rows {
            assert_eq!(parse_time(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for bytes in
            [0, 1, 1023, 1024, 1 << 20, (1 << 20) + 1, 3 << 30, 5 << 40, 1_000_000, u64::MAX]
        {
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes), "{bytes}");
        }
        for millis in [0, 1, 999, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000] {
            let time = Duration::from_millis(millis);
            assert_eq!(parse_time(&format_time(time)), Some(time), "{millis}");
        }
        assert_eq!(format_size(8 << 20), "8MiB");
        assert_eq!(format_time(Duration::from_mins(1)), "1m");
    }
}
