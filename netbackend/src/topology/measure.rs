//! How wide text is, estimated: nobody asks the fonts of who will look at it. Estimates are on the wide side.

/// The part of an em, in thousandths, that a letter of a proportional font takes.
fn advance(letter: char) -> i32 {
    match letter {
        'i' | 'j' | 'l' | '\'' | '|' | '.' | ',' | ':' | ';' | '!' => 340,
        'f' | 't' | 'r' | 'I' | '(' | ')' | '[' | ']' | '-' | ' ' | '/' => 430,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 980,
        'A'..='Z' | '_' | '&' | '#' => 740,
        letter if letter.is_ascii() => 640,
        // Most scripts are narrower than this, none is much wider.
        _ => 1000,
    }
}

/// The part of an em, in thousandths, that a letter of a fixed-width font takes.
const FIXED: i32 = 603;

/// A font as far as widths go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Font {
    /// A proportional bold one of this size, in tenths of a pixel.
    Bold(i32),
    /// A fixed-width one of this size, in tenths of a pixel.
    Mono(i32),
}

impl Font {
    fn letter(self, letter: char) -> i32 {
        // In thousandths of tenths of a pixel.
        match self {
            Self::Bold(size) => advance(letter) * size * 108 / 100,
            Self::Mono(size) if letter.is_ascii() || letter == '→' || letter == '…' => {
                FIXED * size
            }
            Self::Mono(size) => 1000 * size,
        }
    }

    /// The width of a text, in pixels.
    pub(super) fn width(self, text: &str) -> i32 {
        let width: i32 = text
            .chars()
            .map(|letter| self.letter(letter))
            .fold(0, i32::saturating_add);
        width / 10_000 + 1
    }

    /// The text if it fits, else as much of its beginning as does, with an ellipsis.
    pub(super) fn fit(self, text: &str, room: i32) -> String {
        // What can be seen of a text without end is measured, and no more.
        let seen = usize::try_from(room).unwrap_or_default().max(1);
        let short: String = text.chars().take(seen).collect();
        if short.len() == text.len() && self.width(text) <= room {
            return text.to_owned();
        }
        let room = (room - 1) * 10_000 - self.letter('…');
        let mut used = 0;
        let kept: String = short
            .chars()
            .take_while(|letter| {
                used += self.letter(*letter);
                used <= room
            })
            .collect();
        format!("{}…", kept.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_stays_and_the_rest_ends_with_dots() {
        let font = Font::Bold(140);
        assert_eq!(font.fit("web", 200), "web");
        for text in [
            "a-name-that-is-much-too-long-for-a-card",
            "ﷺﷺﷺﷺﷺﷺﷺﷺﷺﷺﷺﷺ",
            "WWWWWWWWWWWWWWWWWWWW",
        ] {
            let short = font.fit(text, 100);
            assert!(short.ends_with('…') && font.width(&short) <= 100, "{short}");
        }
        assert_eq!(font.fit("web", 0), "…");
        let endless = font.fit(&"x".repeat(1 << 20), 100);
        assert!((5..15).contains(&endless.chars().count()), "{endless}");
    }
}
