//! The file format of images: `{"pages": {"lower": HEX, "00": HEX, "01": …, "0.11": …, "A0": HEX, "A2": HEX}}`.
//!
//! HEX is in upper or lower case, with any white space. A page of a bank is `BANK.PAGE`. A page of a paged module that has
//! 256 bytes is lower memory and the page behind it, as both are read together. Whatever is wrong becomes a problem, and
//! what can be read is read.

use crate::cmis::BANKS_MAX;
use crate::image::{Image, Page};
use crate::problem::{Problem, Problems};
use serde_json::Value;

/// Largest file read, bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a page that has both halves.
const BOTH_HALVES: usize = 256;

/// Reads a file: the image, and what was wrong with it.
#[must_use]
pub fn parse(text: &[u8]) -> (Image, Vec<Problem>) {
    let mut problems = Problems::default();
    let mut image = Image::default();
    match pages(text) {
        Ok(pages) => {
            for (key, value) in &pages {
                read(key, value, &mut image, &mut problems);
            }
        }
        Err(why) => problems.push(Problem::NotAFile(why)),
    }
    (image, problems.into_vec())
}

fn pages(text: &[u8]) -> Result<serde_json::Map<String, Value>, String> {
    if text.len() > FILE_BYTES_MAX {
        return Err(format!("{} bytes; at most {FILE_BYTES_MAX} are read", text.len()));
    }
    let Value::Object(mut file) = serde_json::from_slice(text).map_err(|error| error.to_string())? else {
        return Err("it is no JSON object".to_owned());
    };
    match file.remove("pages") {
        Some(Value::Object(pages)) => Ok(pages),
        Some(_) => Err("\"pages\" is no object".to_owned()),
        None => Err("it has no \"pages\"".to_owned()),
    }
}

fn read(key: &str, value: &Value, image: &mut Image, problems: &mut Problems) {
    let Some(page) = page(key) else {
        problems.push(Problem::UnknownPage(key.chars().take(32).collect()));
        return;
    };
    // A page that could not be read is often null: it is as missing as one that is not there.
    let text = match value {
        Value::Null => return,
        Value::String(text) => text,
        _ => {
            problems.push(Problem::NotHex { page, at: 0 });
            return;
        }
    };
    let (bytes, wrong_at) = hex(text);
    if let Some(at) = wrong_at {
        problems.push(Problem::NotHex { page, at });
    }
    let halves = match page {
        _ if bytes.len() != BOTH_HALVES => [Some((page, &bytes[..])), None],
        Page::A0 | Page::A2 => [Some((page, &bytes[..])), None],
        Page::Lower => [Some((page, &bytes[..128])), Some((Page::upper(0), &bytes[128..]))],
        Page::Upper { .. } => [Some((Page::Lower, &bytes[..128])), Some((page, &bytes[128..]))],
    };
    for (page, bytes) in halves.into_iter().flatten() {
        // Lower memory that was read twice differs in what it measures: the first will do.
        match image.insert(page, bytes) {
            Err(Problem::GivenTwice { page: Page::Lower })
                if bytes.first() == image.page(Page::Lower).and_then(<[u8]>::first) => {}
            Err(problem) => problems.push(problem),
            Ok(()) => {}
        }
    }
}

fn page(key: &str) -> Option<Page> {
    let two_digits = |text: &str| {
        let is_hex = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u8::from_str_radix(text, 16).ok()).flatten()
    };
    match key {
        "A0" | "a0" => Some(Page::A0),
        "A2" | "a2" => Some(Page::A2),
        "lower" => Some(Page::Lower),
        // Where a module has one page, some tools call it so.
        "upper" => Some(Page::upper(0)),
        _ => match key.split_once('.') {
            Some((bank, page)) => {
                let bank = bank.parse().ok().filter(|bank| *bank < BANKS_MAX)?;
                Some(Page::Upper { bank, page: two_digits(page)? })
            }
            None => two_digits(key).map(Page::upper),
        },
    }
}

/// The bytes of a text, and where it stops being hexadecimal.
fn hex(text: &str) -> (Vec<u8>, Option<usize>) {
    let mut bytes = Vec::new();
    let mut half: Option<(u32, usize)> = None;
    for (at, character) in text.chars().enumerate() {
        if character.is_whitespace() {
            continue;
        }
        let Some(digit) = character.to_digit(16) else { return (bytes, Some(at)) };
        half = match half {
            None => Some((digit, at)),
            Some((high, _)) => {
                bytes.push(u8::try_from(high << 4 | digit).unwrap_or_default());
                None
            }
        };
    }
    (bytes, half.map(|(_, at)| at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_a_page_or_nothing() {
        let upper = |bank, page| Some(Page::Upper { bank, page });
        for (key, expected) in [
            ("lower", Some(Page::Lower)),
            ("A0", Some(Page::A0)),
            ("a2", Some(Page::A2)),
            ("upper", upper(0, 0)),
            ("00", upper(0, 0)),
            ("2f", upper(0, 0x2f)),
            ("2F", upper(0, 0x2f)),
            ("0.11", upper(0, 0x11)),
            ("3.11", upper(3, 0x11)),
            ("4.11", None),
            ("-1.11", None),
            ("1.1", None),
            ("+1", None),
            ("111", None),
            ("", None),
            ("lower ", None),
            ("é", None),
        ] {
            assert_eq!(page(key), expected, "{key:?}");
        }
    }

    #[test]
    fn hexadecimal_has_any_case_and_any_white_space_and_stops_at_what_it_is_not() {
        for (text, bytes, wrong_at) in [
            ("0aFF", vec![0x0a, 0xff], None),
            (" 0a\n f f ", vec![0x0a, 0xff], None),
            ("", vec![], None),
            ("0a1", vec![0x0a], Some(2)),
            ("0a1x", vec![0x0a], Some(3)),
            ("0x0a", vec![], Some(1)),
        ] {
            assert_eq!(hex(text), (bytes, wrong_at), "{text:?}");
        }
    }

    #[test]
    fn a_page_of_both_halves_is_two_pages() {
        let both = format!("{}{}", "18".repeat(128), "19".repeat(128));
        let (image, problems) =
            parse(format!(r#"{{"pages": {{"11": "{both}", "lower": "{}"}}}}"#, "18".repeat(128)).as_bytes());
        assert_eq!(problems, []);
        assert_eq!(image.byte(Page::Lower, 0), Some(0x18));
        assert_eq!(image.byte(Page::upper(0x11), 255), Some(0x19));
        let (image, problems) = parse(format!(r#"{{"pages": {{"lower": "{both}"}}}}"#).as_bytes());
        assert_eq!((image.byte(Page::upper(0), 128), problems.len()), (Some(0x19), 0));
    }

    #[test]
    fn what_is_no_file_of_pages_says_what_it_lacks() {
        for (text, words) in [
            ("", "EOF"),
            ("[]", "no JSON object"),
            ("{}", "no \"pages\""),
            (r#"{"pages": []}"#, "\"pages\" is no object"),
            (r#"{"pages": {"lower": "0d"#, "EOF"),
            (r#"{"pages": {"lower": 13}}"#, "not hexadecimal"),
            (r#"{"pages": {"bottom": ""}}"#, "names no page"),
            (r#"{"pages": {"11": "00", "0.11": "01"}}"#, "given twice"),
            (&format!(r#"{{"pages": {{"lower": "{}"}}}}"#, "0d".repeat(129)), "has 129 bytes, expected 128"),
        ] {
            let (_, problems) = parse(text.as_bytes());
            assert!(problems.iter().any(|problem| problem.to_string().contains(words)), "{text}: {problems:?}");
        }
    }
}
