//! Which versions a request takes, in the words of Poetry, as GitLab writes them: `^1.0.0`, `~1.2`, `>=1.0,<2.0`, `1.0.0`.

use semver::{Version, VersionReq};

/// What a request takes that says nothing.
pub const VERSION_DEFAULT: &str = "^1.0.0";

/// Longest text that is looked at.
const RANGE_BYTES_MAX: usize = 128;

/// The versions that a request takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionRange {
    /// This one, a pre-release too.
    Exact(Version),
    /// The newest release that one of these takes.
    Ranges(Vec<VersionReq>),
}

impl VersionRange {
    /// Reads a range; `None` for what is none, which no version matches.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() > RANGE_BYTES_MAX {
            return None;
        }
        if let Some(version) = exact(text.trim_start_matches('=').trim()) {
            return Some(Self::Exact(version));
        }
        let ranges = text.split("||").map(|part| VersionReq::parse(&translated(part.trim())).ok());
        ranges.collect::<Option<Vec<_>>>().map(Self::Ranges)
    }

    /// Returns the newest of `versions` that the range takes. Pre-releases count only where one is named exactly.
    pub fn newest<'a>(&self, versions: impl Iterator<Item = &'a Version>) -> Option<&'a Version> {
        versions.filter(|version| self.takes(version)).max()
    }

    fn takes(&self, version: &Version) -> bool {
        match self {
            Self::Exact(exact) => exact == version,
            Self::Ranges(ranges) => {
                version.pre.is_empty() && ranges.iter().any(|range| range.matches(version))
            }
        }
    }
}

/// A bare version means just this one, where Cargo takes it for a caret; what is left out is 0.
fn exact(text: &str) -> Option<Version> {
    let is_bare = text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(['*', ',', '|']);
    let padded = match text.split('.').count() {
        1 => format!("{text}.0.0"),
        2 => format!("{text}.0"),
        _ => text.to_owned(),
    };
    is_bare.then(|| Version::parse(&padded).ok()).flatten()
}

/// Says in Cargo's words what only Python's have: nothing for anything, and `~=`.
fn translated(range: &str) -> String {
    if range.is_empty() {
        return "*".to_owned();
    }
    match range.strip_prefix("~=") {
        // `~=1.2` lets the second number grow, `~=1.2.3` the third one only.
        Some(rest) if rest.split('.').count() == 2 => format!("^{}", rest.trim()),
        Some(rest) => format!("~{}", rest.trim()),
        None => range.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_take_the_newest_release() {
        let versions = ["0.9.0", "1.0.0", "1.2.0", "1.2.9", "1.3.0-dev", "2.0.0", "2.1.0-rc.1"];
        let versions = versions.map(|text| Version::parse(text).unwrap());
        let rows = [
            ("^1.0.0", Some("1.2.9")),
            ("^1", Some("1.2.9")),
            ("~1.0", Some("1.0.0")),
            ("~1.2.0", Some("1.2.9")),
            ("~=1.0", Some("1.2.9")),
            ("~=1.2.0", Some("1.2.9")),
            (">=1.0,<2.0", Some("1.2.9")),
            (">=1.0, <1.2", Some("1.0.0")),
            ("1.2.*", Some("1.2.9")),
            ("*", Some("2.0.0")),
            ("", Some("2.0.0")),
            ("^0.9 || ^3", Some("0.9.0")),
            ("1.2.0", Some("1.2.0")),
            ("1.2", Some("1.2.0")),
            ("==1.0.0", Some("1.0.0")),
            ("= 2", Some("2.0.0")),
            ("1.3.0-dev", Some("1.3.0-dev")),
            ("2.1.0-rc.1", Some("2.1.0-rc.1")),
            ("^1.3.0-dev", None),
            ("^2.1.0-rc.1", None),
            ("1.1.0", None),
            ("^3", None),
            ("newest", None),
            ("1.0.0; drop", None),
        ];
        for (text, expected) in rows {
            let range = VersionRange::parse(text);
            let newest = range.as_ref().and_then(|range| range.newest(versions.iter()));
            assert_eq!(newest.map(ToString::to_string).as_deref(), expected, "{text}");
        }
        assert_eq!(VersionRange::parse(&"1".repeat(1000)), None);
    }
}
