//! Colours and glyphs. Colour only repeats what a glyph or a word says already.
//!
//! The sixteen colours of the terminal's own palette are used and nothing else, so that a person's
//! light, dark or high-contrast palette stays in force.

use protocol::api::Severity;
use ratatui::style::{Color, Modifier, Style};

/// What the terminal can show and its user wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Theme {
    is_coloured: bool,
    is_ascii: bool,
}

impl Theme {
    /// Makes a theme.
    #[cfg(test)]
    pub(crate) const fn new(is_coloured: bool, is_ascii: bool) -> Self {
        Self {
            is_coloured,
            is_ascii,
        }
    }

    /// Returns the theme that the environment asks for: no colour when `NO_COLOR` is set and not
    /// empty (source: no-color.org), only ASCII when the locale is not UTF-8.
    pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        // The first of these that is set decides (source: locale(7)).
        let locale = set("LC_ALL")
            .or_else(|| set("LC_CTYPE"))
            .or_else(|| set("LANG"))
            .unwrap_or_default()
            .to_lowercase();
        Self {
            is_coloured: set("NO_COLOR").is_none(),
            is_ascii: !(locale.contains("utf-8") || locale.contains("utf8")),
        }
    }

    /// Returns the same theme with colour as a flag says.
    pub(crate) const fn with_colour(self, is_coloured: bool) -> Self {
        Self {
            is_coloured,
            ..self
        }
    }

    /// Returns the same theme with nothing but ASCII.
    pub(crate) const fn with_ascii(self) -> Self {
        Self {
            is_ascii: true,
            ..self
        }
    }

    /// Returns whether only ASCII may be drawn.
    pub(crate) const fn is_ascii(self) -> bool {
        self.is_ascii
    }

    fn colour(self, colour: Color) -> Style {
        if self.is_coloured {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    /// Style of a severity.
    pub(crate) fn severity(self, severity: Severity) -> Style {
        match severity {
            Severity::Critical => self.colour(Color::LightRed).add_modifier(Modifier::BOLD),
            Severity::High => self.colour(Color::Red),
            Severity::Medium => self.colour(Color::Yellow),
            Severity::Low => self.colour(Color::Cyan),
            Severity::Info => self.dim(),
        }
    }

    /// Style of headings.
    pub(crate) fn heading(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Style of what matters less.
    pub(crate) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Style of the row under the cursor, which a glyph marks too.
    pub(crate) fn cursor(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Style of a key's name.
    pub(crate) fn key(self) -> Style {
        self.colour(Color::Cyan)
    }

    /// Style of what is well.
    pub(crate) fn good(self) -> Style {
        self.colour(Color::Green)
    }

    /// Style of what is not known.
    pub(crate) fn unsure(self) -> Style {
        self.colour(Color::Yellow)
    }

    /// Style of what is not well.
    pub(crate) fn bad(self) -> Style {
        self.colour(Color::LightRed).add_modifier(Modifier::BOLD)
    }
}

/// Returns the glyph and the short word of a severity.
pub(crate) const fn severity_text(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "!! crit",
        Severity::High => "!  high",
        Severity::Medium => "~  med",
        Severity::Low => ".  low",
        Severity::Info => "   info",
    }
}

/// Returns an ASCII character in place of any other.
pub(crate) fn ascii(symbol: &str) -> &'static str {
    match symbol {
        "─" | "—" => "-",
        "│" => "|",
        "▸" | "›" => ">",
        "●" => "*",
        "○" => "o",
        "…" => "~",
        "·" => ".",
        "▲" => "^",
        "▼" => "v",
        "•" => "x",
        "▁" => ".",
        "▂" | "▃" => ":",
        "▄" | "▅" => "+",
        "▆" | "▇" | "█" => "#",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], is_coloured: bool, is_ascii: bool) {
        let look = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(
            Theme::from_environment(look),
            Theme::new(is_coloured, is_ascii)
        );
    }

    #[test]
    fn the_environment_decides_on_colour_and_glyphs() {
        check(&[("LANG", "en_GB.UTF-8")], true, false);
        check(&[("LANG", "C.utf8"), ("NO_COLOR", "1")], false, false);
        check(&[("LANG", "C.utf8"), ("NO_COLOR", "")], true, false);
        check(&[("LANG", "en_GB.UTF-8"), ("LC_ALL", "C")], true, true);
        check(&[("LC_ALL", ""), ("LC_CTYPE", "de_DE.UTF-8")], true, false);
        check(&[], true, true);
    }

    #[test]
    fn without_colour_a_severity_is_still_told_by_its_glyph_and_its_word() {
        let plain = Theme::new(false, false);
        let all = [
            Severity::Info,
            Severity::Low,
            Severity::Medium,
            Severity::High,
            Severity::Critical,
        ];
        let mut seen = std::collections::BTreeSet::new();
        for severity in all {
            assert_eq!(plain.severity(severity).fg, None);
            assert!(seen.insert(severity_text(severity)));
        }
    }
}
