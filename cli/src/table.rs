//! Columns for people: upper-case heads, two spaces between, numbers to the right, nothing cut off.
//! Flows in: heads and cells. Flows out: text. It knows no Railwatch type.

/// How a cell stands out where colour is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// As text.
    #[default]
    Plain,
    /// Good.
    Good,
    /// Look at it.
    Warn,
    /// Act on it.
    Bad,
    /// Of little interest.
    Faint,
}

impl Tone {
    fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("1;31"),
            Self::Faint => Some("2"),
        }
    }

    /// The text in this tone, escaped only where `colour` is on.
    pub fn paint(self, text: &str, colour: bool) -> String {
        match self.sgr() {
            Some(sgr) if colour => format!("\x1b[{sgr}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    /// Text; nothing is shown as "-". Control characters are made visible: names come from hosts, and a
    /// terminal would obey them.
    pub fn text(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        let text = if text.is_empty() { "-".to_owned() } else { visible(text) };
        Self { text, ..Self::default() }
    }

    /// A number, to the right.
    pub fn number(text: impl ToString) -> Self {
        Self { text: text.to_string(), right: true, ..Self::default() }
    }

    /// The same in another tone.
    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

/// `text` with every control character as an escape.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Heads and rows as text, one line each.
pub fn render(heads: &[&str], rows: &[Vec<Cell>], colour: bool) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut out = String::new();
    let head: Vec<Cell> = heads
        .iter()
        .enumerate()
        .map(|(i, head)| Cell {
            text: (*head).to_owned(),
            tone: Tone::Faint,
            right: rows.first().and_then(|row| row.get(i)).is_some_and(|cell| cell.right),
        })
        .collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        let mut owed = 0;
        for (cell, width) in row.iter().zip(&widths) {
            let pad = width - cell.text.chars().count();
            if !cell.text.is_empty() {
                let before = owed + if cell.right { pad } else { 0 };
                line.extend(std::iter::repeat_n(' ', before));
                line.push_str(&cell.tone.paint(&cell.text, colour));
                owed = 2 + if cell.right { 0 } else { pad };
            } else {
                owed += 2 + pad;
            }
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_is_in_them_and_lines_end_without_spaces() {
        let rows = vec![
            vec![Cell::text("höst-1"), Cell::number(7), Cell::text("ok")],
            vec![Cell::text("h"), Cell::number(12345), Cell::text("")],
        ];
        assert_eq!(
            render(&["HOST", "SEEN", "NOTE"], &rows, false),
            "HOST     SEEN  NOTE\nhöst-1      7  ok\nh       12345  -\n"
        );
    }

    #[test]
    fn colour_changes_no_column_and_is_off_unless_asked_for() {
        let rows = vec![vec![Cell::text("down").tone(Tone::Bad), Cell::text("x")]];
        assert!(!render(&["STATE", "Y"], &rows, false).contains('\x1b'));
        let coloured = render(&["STATE", "Y"], &rows, true);
        assert!(coloured.ends_with("\x1b[1;31mdown\x1b[0m   x\n"), "{coloured:?}");
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(Cell::text("evil\x1b[2J\n").text, "evil\\u{1b}[2J\\n");
    }
}
