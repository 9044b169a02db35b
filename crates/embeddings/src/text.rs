//! Tables as texts: a key and its numbers in each line.
//!
//! Numbers are separated by tabs (TSV), or by spaces (`GloVe`, `word2vec`). The text format of `word2vec` begins with a line
//! that has the number of rows and that of columns.

use std::io::BufRead;

use servable_model::error::Result;

use crate::keys::{Keys, read_line};
use crate::place::{Place, shown};

/// A table that was read into memory.
pub(crate) struct Text {
    pub(crate) keys: Keys,
    /// The rows, as little-endian float32.
    pub(crate) bytes: Vec<u8>,
    pub(crate) width: usize,
}

/// Reads a table.
///
/// # Errors
///
/// `DATA_LOSS` with the line that is damaged.
pub(crate) fn read(mut file: impl BufRead, separator: u8, may_be_infinite: bool, place: Place<'_>) -> Result<Text> {
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| -> Result<bool> {
        let is_there = read_line(&mut file, line, place)?;
        while separator == b' ' && line.ends_with(b" ") {
            line.pop();
        }
        Ok(is_there)
    };
    if !next(&mut line)? {
        return Err(place.wrong_line(1, "got an empty file, want at least one line"));
    }
    let mut table = Text { keys: Keys::default(), bytes: Vec::new(), width: 0 };
    let (mut number, mut wanted) = (1, None);
    if let Some((rows, width)) = header(&line, separator) {
        let mut second = Vec::new();
        let is_there = next(&mut second)?;
        if is_there && second.split(|&byte| byte == separator).count() == width + 1 {
            (table.width, wanted, number, line) = (width, Some(rows), 2, second);
        } else {
            table.push(&line, number, separator, may_be_infinite, place)?;
            if !is_there {
                return Ok(table);
            }
            (number, line) = (2, second);
        }
    }
    let first = number;
    loop {
        table.push(&line, number, separator, may_be_infinite, place)?;
        if wanted.is_some_and(|rows| table.keys.len() > rows) || !next(&mut line)? {
            break;
        }
        number += 1;
    }
    match wanted {
        Some(rows) if rows != table.keys.len() => {
            let found = if table.keys.len() > rows { "more".to_owned() } else { table.keys.len().to_string() };
            Err(place.wrong_line(number, format!("got {found} rows, want {rows} as in line {}", first - 1)))
        }
        _ => Ok(table),
    }
}

/// The numbers of rows and columns, if the line may be the header of `word2vec`.
fn header(line: &[u8], separator: u8) -> Option<(usize, usize)> {
    if separator != b' ' {
        return None;
    }
    let (rows, width) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    Some((rows.parse().ok()?, width.parse().ok().filter(|&width| width > 0)?))
}

impl Text {
    fn push(&mut self, line: &[u8], at: usize, separator: u8, may_be_infinite: bool, place: Place<'_>) -> Result<()> {
        let wrong = |problem: String| place.wrong_line(at, problem);
        let name = if separator == b'\t' { "tab" } else { "space" };
        let separators = line.split(|&byte| byte == separator).count() - 1;
        if separators == 0 {
            return Err(wrong(format!("got no {name}, want a key, a {name} and numbers")));
        }
        if self.width == 0 {
            self.width = separators;
        }
        let mut parts = line.rsplitn(self.width + 1, |&byte| byte == separator);
        let start = self.bytes.len();
        self.bytes.resize(start + self.width * size_of::<f32>(), 0);
        let mut fields = Vec::with_capacity(self.width);
        fields.extend(parts.by_ref().take(self.width));
        // Keys of GloVe may contain spaces.
        let key = parts.next().filter(|key| {
            separators == self.width || separator == b' ' && parse(key.rsplit(|&b| b == b' ').next()).is_none()
        });
        let Some(key) = key else {
            let wanted = self.width;
            let first = at - self.keys.len();
            return Err(wrong(format!("got {separators} numbers, want {wanted} as in line {first}")));
        };
        for (bytes, field) in self.bytes[start..].as_chunks_mut().0.iter_mut().rev().zip(fields) {
            let value = parse(Some(field)).ok_or_else(|| wrong(format!("got {}, want a number", shown(field))))?;
            if !value.is_finite() && !may_be_infinite {
                return Err(wrong(format!("got {}, want a finite number", shown(field))));
            }
            *bytes = value.to_le_bytes();
        }
        let first = at - self.keys.len();
        self.keys.push(key).map_err(|error| wrong(error.of(key, "line", first).to_string()))
    }
}

fn parse(field: Option<&[u8]>) -> Option<f32> {
    std::str::from_utf8(field?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(text: &[u8], separator: u8) -> Result<Text, String> {
        read(text, separator, false, Place(Path::new("t"))).map_err(|error| error.text().into_owned())
    }

    fn rows(table: &Text) -> Vec<(String, Vec<f32>)> {
        let numbers: Vec<f32> = table.bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let key = |row| String::from_utf8(table.keys.get(row).to_vec()).unwrap();
        numbers.chunks(table.width).enumerate().map(|(row, numbers)| (key(row), numbers.to_vec())).collect()
    }

    #[test]
    fn tabs_and_spaces_separate_numbers() {
        let wanted = [("a b".to_owned(), vec![1.0, -2.5]), (String::new(), vec![3e-2, 4.0])];
        assert_eq!(rows(&of(b"a b\t1\t-2.5\r\n\t3e-2\t4", b'\t').unwrap()), wanted);
        let glove = of(b"the 1 2\n. . . 3 4\nat a@b.c 5 6 \n", b' ').unwrap();
        let keys: Vec<_> = rows(&glove).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["the", ". . .", "at a@b.c"]);
    }

    #[test]
    fn a_header_of_word2vec_is_recognised_and_checked() {
        let table = of(b"2 3\na 1 2 3 \nb 4 5 6 \n", b' ').unwrap();
        assert_eq!((table.keys.len(), table.width), (2, 3));
        assert_eq!(of(b"3 2\na 1 2\n", b' ').err().unwrap(), "t:2: got 1 rows, want 3 as in line 1");
        assert_eq!(of(b"1 2\na 1 2\nb 1 2\nc 1 2\n", b' ').err().unwrap(), "t:3: got more rows, want 1 as in line 1");
        let numbers = of(b"2 3\n4 5\n", b' ').unwrap();
        assert_eq!(rows(&numbers), [("2".to_owned(), vec![3.0]), ("4".to_owned(), vec![5.0])]);
        assert_eq!(rows(&of(b"2 3", b' ').unwrap()), [("2".to_owned(), vec![3.0])]);
    }

    #[test]
    fn a_damaged_line_is_named() {
        for (text, wanted) in [
            ("a\t1\nb\t1\t2\n", "t:2: got 2 numbers, want 1 as in line 1"),
            ("a\t1\t2\nb\t1\n", "t:2: got 1 numbers, want 2 as in line 1"),
            ("a\t1\nb\tx\n", "t:2: got \"x\", want a number"),
            ("a\t1\nb\n", "t:2: got no tab, want a key, a tab and numbers"),
            ("a\t1\nb\t2\na\t3\n", "t:3: got key \"a\" of line 1 again"),
            ("a\t1\nb\tnan\n", "t:2: got \"nan\", want a finite number"),
            ("", "t:1: got an empty file, want at least one line"),
        ] {
            assert_eq!(of(text.as_bytes(), b'\t').err().unwrap(), wanted);
        }
        assert_eq!(of(b"a 1 2\nb 1 2 3\n", b' ').err().unwrap(), "t:2: got 3 numbers, want 2 as in line 1");
        assert_eq!(of(b"a\t1\n\xff\t1\n", b'\t').err().unwrap(), "t:2: got key \"\\xff\", want UTF-8");
        assert_eq!(of(b"1 2\na 1 2\na 1 2\n", b' ').err().unwrap(), "t:3: got key \"a\" of line 2 again");
    }
}
