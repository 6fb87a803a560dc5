// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading the machine's own apt sources, to learn which mirror it uses.

/// One entry: where packages come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Base addresses of the archive.
    pub uris: Vec<String>,
    /// Suites, such as `bookworm`.
    pub suites: Vec<String>,
    /// Components, such as `main`.
    pub components: Vec<String>,
    /// The keyring's path, or the key itself with its line breaks.
    pub signed_by: Option<String>,
}

impl Source {
    /// The entry as a deb822 stanza, with other suites in the place of its own.
    pub fn stanza(&self, suites: &[&str]) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n",
            self.uris.join(" "),
            suites.join(" "),
            self.components.join(" ")
        );
        if let Some(key) = &self.signed_by {
            text += &format!("Signed-By: {key}\n");
        }
        text
    }
}

/// The entry that provides `suite` itself: its mirror has the suite's backports and siblings too.
pub(crate) fn choose<'a>(sources: &'a [Source], suite: &str) -> Option<&'a Source> {
    sources.iter().find(|source| {
        source.suites.iter().any(|s| s == suite) && source.components.iter().any(|c| c == "main")
    })
}

/// Parses a `.sources` file.
pub(crate) fn parse_deb822(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    // The empty line at the end closes the last stanza.
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            found.extend(from_fields(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim_end());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    found
}

fn from_fields(fields: &[(String, String)]) -> Option<Source> {
    let field = |name: &str| {
        fields
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    };
    let words = |name: &str| {
        field(name)
            .unwrap_or("")
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let types: Vec<String> = words("types");
    let disabled = field("enabled").is_some_and(|v| matches!(v, "no" | "false" | "0"));
    if disabled || !types.iter().any(|t| t == "deb") {
        return None;
    }
    Some(Source {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by")
            .filter(|v| !v.is_empty())
            .map(str::to_owned),
    })
}

/// Parses a `.list` file.
pub(crate) fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line).collect()
}

fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line
        .strip_prefix("deb")
        .filter(|r| r.starts_with([' ', '\t', '[']))?
        .trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let uri = words.next()?;
    let suite = words.next()?;
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="))
        .map(str::to_owned);
    Some(Source {
        uris: vec![uri],
        suites: vec![suite],
        components: words.collect(),
        signed_by,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a comment between fields
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb-src
URIs: http://mirror.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

types: deb deb-src
uris: http://mirror.example/security
suites: bookworm-security
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
";

    #[test]
    fn deb822_stanzas_are_read() {
        let sources = parse_deb822(DEB822);
        assert_eq!(sources.len(), 2, "{sources:?}");
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(
            sources[0].signed_by.as_deref(),
            Some("/usr/share/keyrings/debian.gpg")
        );
        let key = sources[1].signed_by.as_deref().unwrap();
        assert!(
            key.starts_with("\n -----BEGIN") && key.contains("\n .\n abc\n"),
            "{key:?}"
        );
    }

    #[test]
    fn an_inline_key_survives_being_written_again() {
        let source = parse_deb822(DEB822).pop().unwrap();
        let again = parse_deb822(&source.stanza(&["bookworm-backports"]));
        assert_eq!(again[0].signed_by, source.signed_by);
        assert_eq!(again[0].suites, ["bookworm-backports"]);
        assert_eq!(again[0].uris, source.uris);
    }

    #[test]
    fn one_line_entries_are_read() {
        let text = "\
# deb http://off.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # why
deb-src http://mirror.example/debian bookworm main
deb [ arch=amd64 signed-by=/k.gpg ] http://other.example stable tools
deb [broken
";
        let sources = parse_one_line(text);
        assert_eq!(sources.len(), 2, "{sources:?}");
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(sources[0].signed_by, None);
        assert_eq!(sources[1].uris, ["http://other.example"]);
        assert_eq!(sources[1].signed_by.as_deref(), Some("/k.gpg"));
    }

    #[test]
    fn the_mirror_is_that_of_the_suite_itself() {
        let sources = parse_deb822(DEB822);
        assert_eq!(choose(&sources, "bookworm"), Some(&sources[0]));
        assert_eq!(choose(&sources, "trixie"), None);
        let tools = parse_one_line("deb http://other.example bookworm tools");
        assert_eq!(choose(&tools, "bookworm"), None);
    }
}
