//! A report as a table, as JSON and as CSV.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::telemetry::store::{By, Figures, Group, Period, Report};

/// What stands for a group that nothing is known of.
const UNKNOWN: &str = "unknown";
/// Columns of a table, the first being the group's.
const HEADS: [&str; 9] = [
    "requests",
    "users",
    "shown",
    "accepted",
    "rejected",
    "acceptance",
    "latency p50/p95",
    "ttft p50/p95",
    "clients count",
];
/// Columns of CSV behind the group's.
const COLUMNS: [&str; 13] = [
    "requests",
    "unique_users",
    "shown",
    "accepted",
    "rejected",
    "acceptance_rate",
    "latency_p50_ms",
    "latency_p95_ms",
    "ttft_p50_ms",
    "ttft_p95_ms",
    "told_requests",
    "told_accepts",
    "told_errors",
];

/// Columns of what clients count by themselves.
const TOLD: [&str; 3] = ["told_requests", "told_accepts", "told_errors"];

/// A report to be shown.
pub(super) struct Shown<'a> {
    pub(super) report: &'a Report,
    pub(super) period: Period,
    pub(super) by: Option<By>,
}

impl Shown<'_> {
    /// Returns it for people.
    pub(super) fn table(&self) -> String {
        let Period { first, last } = self.period;
        let Report { total, groups } = self.report;
        if *total == Figures::default() && groups.is_empty() {
            return format!(
                "Nothing from {first} to {last}: no completion was served and no event was told in these days.\n"
            );
        }
        let head = std::iter::once(self.by.map_or("", By::as_label)).chain(HEADS);
        let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).collect()];
        rows.extend(groups.iter().map(|group| cells(name(group), &group.figures)));
        rows.push(cells("all", total));
        // What no client counts by itself takes no room.
        if total.told == [0; 3] {
            for row in &mut rows {
                row.truncate(HEADS.len());
            }
        }
        let num_columns = rows[0].len();
        let width =
            |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..num_columns).map(width).collect();
        let mut text = format!("From {first} to {last}, UTC\n\n");
        for row in &rows {
            let mut line = format!("{:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                let _ = write!(line, "  {cell:>width$}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Returns it for programs: an object.
    pub(super) fn json(&self) -> String {
        let groups: Vec<Value> = self
            .report
            .groups
            .iter()
            .map(|group| {
                let mut figures = self.of_group(group);
                figures["name"] = json!(name(group));
                figures
            })
            .collect();
        let report = json!({
            "from": self.period.first.to_string(),
            "to": self.period.last.to_string(),
            "by": self.by.map(By::as_label),
            "total": figures(&self.report.total),
            "groups": groups,
        });
        format!("{report:#}\n")
    }

    /// Returns the figures of a group; those that are not known by groups are null.
    fn of_group(&self, group: &Group) -> Value {
        let mut figures = figures(&group.figures);
        if !self.by.is_some_and(By::is_told) {
            for column in TOLD {
                figures[column] = Value::Null;
            }
        }
        figures
    }

    /// Returns it for tables of others: a line a group, and one for all, whose name is empty beside those of groups.
    pub(super) fn csv(&self) -> String {
        let mut text = self.by.map_or("all", By::as_label).to_owned();
        for column in COLUMNS {
            let _ = write!(text, ",{column}");
        }
        text.push('\n');
        let mut line = |name: &str, figures: &Value| {
            // Names are of settings, which may hold a comma.
            let _ = write!(text, "\"{}\"", name.replace('"', "\"\""));
            for column in COLUMNS {
                match &figures[column] {
                    Value::Null => text.push(','),
                    value => {
                        let _ = write!(text, ",{value}");
                    }
                }
            }
            text.push('\n');
        };
        for group in &self.report.groups {
            line(name(group), &self.of_group(group));
        }
        // No group has an empty name, and one may be called by any word.
        let all = if self.by.is_none() { "all" } else { "" };
        line(all, &figures(&self.report.total));
        text
    }
}

fn name(group: &Group) -> &str {
    if group.name.is_empty() { UNKNOWN } else { &group.name }
}

fn figures(figures: &Figures) -> Value {
    // To the microsecond, which is as fine as it was measured; a rate to four digits.
    let round = |number: Option<f64>, digits: i32| {
        number.map(|number| (number * 10f64.powi(digits)).round() / 10f64.powi(digits))
    };
    let [latency_p50, latency_p95] = figures.latency_ms.map(|ms| round(ms, 3));
    let [ttft_p50, ttft_p95] = figures.ttft_ms.map(|ms| round(ms, 3));
    let [told_requests, told_accepts, told_errors] = figures.told;
    json!({
        "requests": figures.requests,
        "unique_users": figures.users,
        "shown": figures.shown,
        "accepted": figures.accepted,
        "rejected": figures.rejected,
        "acceptance_rate": round(figures.acceptance_rate(), 4),
        "latency_p50_ms": latency_p50,
        "latency_p95_ms": latency_p95,
        "ttft_p50_ms": ttft_p50,
        "ttft_p95_ms": ttft_p95,
        "told_requests": told_requests,
        "told_accepts": told_accepts,
        "told_errors": told_errors,
    })
}

fn cells(name: &str, figures: &Figures) -> Vec<String> {
    let ms = |[half, most]: [Option<f64>; 2]| match (half, most) {
        (Some(half), Some(most)) => format!("{half:.0}/{most:.0} ms"),
        _ => "-".to_owned(),
    };
    let rate = figures.acceptance_rate();
    let [requests, accepts, errors] = figures.told;
    vec![
        name.to_owned(),
        figures.requests.to_string(),
        figures.users.to_string(),
        figures.shown.to_string(),
        figures.accepted.to_string(),
        figures.rejected.to_string(),
        rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1} %", rate * 100.0)),
        ms(figures.latency_ms),
        ms(figures.ttft_ms),
        if figures.told == [0; 3] {
            "-".to_owned()
        } else {
            format!("{requests} asked, {accepts} taken, {errors} failed")
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::store::Day;

    fn report(told: [u64; 3]) -> Report {
        let figures = Figures {
            requests: 30,
            users: 2,
            shown: 9,
            accepted: 3,
            rejected: 4,
            latency_ms: [Some(120.4), Some(310.0)],
            ttft_ms: [None, None],
            told,
        };
        let group = |name: &str, figures| Group { name: name.to_owned(), figures };
        let groups = vec![group("a\"b,c", figures.clone()), group("", Figures::default())];
        Report { total: figures, groups }
    }

    fn shown(report: &Report, by: Option<By>) -> Shown<'_> {
        Shown { report, period: Period { first: Day(20_773), last: Day(20_779) }, by }
    }

    #[test]
    fn a_table_has_a_row_a_group_and_one_for_all() {
        let report = report([0; 3]);
        let text = shown(&report, Some(By::Model)).table();
        let expected = "\
From 2026-11-16 to 2026-11-22, UTC

model    requests  users  shown  accepted  rejected  acceptance  latency p50/p95  ttft p50/p95
a\"b,c          30      2      9         3         4      33.3 %       120/310 ms             -
unknown         0      0      0         0         0           -                -             -
all            30      2      9         3         4      33.3 %       120/310 ms             -
";
        assert_eq!(text, expected);
    }

    #[test]
    fn clients_own_counts_are_a_column_where_there_are_some() {
        let report = report([5, 2, 1]);
        let text = shown(&report, None).table();
        assert!(text.contains("5 asked, 2 taken, 1 failed"), "{text}");
    }

    #[test]
    fn nothing_is_a_sentence() {
        let empty = Report { total: Figures::default(), groups: Vec::new() };
        let text = shown(&empty, None).table();
        assert!(text.starts_with("Nothing from 2026-11-16 to 2026-11-22: "), "{text}");
    }

    #[test]
    fn what_is_not_known_by_groups_is_no_zero() {
        let report = report([5, 2, 1]);
        for (by, is_known) in
            [(By::Client, false), (By::Prompt, false), (By::Language, true), (By::Day, true)]
        {
            let csv = shown(&report, Some(by)).csv();
            let lines: Vec<&str> = csv.lines().collect();
            assert_eq!(lines[2].ends_with(",0,0,0"), is_known, "{csv}");
            assert_eq!(lines[2].ends_with(",,,"), !is_known, "{csv}");
            assert!(lines[3].ends_with(",5,2,1"), "{csv}");
            let json: Value = serde_json::from_str(&shown(&report, Some(by)).json()).unwrap();
            assert_eq!(json["groups"][1]["told_requests"].is_null(), !is_known, "{json}");
            assert_eq!(json["total"]["told_requests"], 5);
        }
    }

    #[test]
    fn programs_read_all_figures() {
        let report = report([5, 2, 1]);
        let csv = shown(&report, Some(By::Model)).csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], format!("model,{}", COLUMNS.join(",")));
        assert_eq!(lines[1], "\"a\"\"b,c\",30,2,9,3,4,0.3333,120.4,310.0,,,5,2,1");
        assert_eq!(lines[2], "\"unknown\",0,0,0,0,0,,,,,,0,0,0");
        assert_eq!(lines[3], "\"\",30,2,9,3,4,0.3333,120.4,310.0,,,5,2,1");
        assert_eq!(lines.len(), 4);
        let whole = Report { groups: Vec::new(), ..report.clone() };
        assert!(
            shown(&whole, None)
                .csv()
                .ends_with("\n\"all\",30,2,9,3,4,0.3333,120.4,310.0,,,5,2,1\n")
        );
        let json: Value = serde_json::from_str(&shown(&report, Some(By::Model)).json()).unwrap();
        assert_eq!(json["from"], "2026-11-16");
        assert_eq!(json["by"], "model");
        assert_eq!(json["total"]["acceptance_rate"], 0.3333);
        assert_eq!(json["groups"][0]["name"], "a\"b,c");
        assert_eq!(json["groups"][1]["latency_p50_ms"], Value::Null);
    }
}
