//! The binary format of `word2vec`: a line with the numbers of rows and columns, then for each row a key, a space and
//! float32 numbers.

use std::io::{BufRead, Read};

use servable_model::error::Result;

use crate::keys::Keys;
use crate::place::{Place, shown};
use crate::text::Text;

const MAX_HEADER: u64 = 64;
const MAX_KEY: u64 = 64 << 10;

/// Reads a table. `size` is the size of the file in bytes.
///
/// # Errors
///
/// `DATA_LOSS` with the row that is damaged.
pub(crate) fn read(mut file: impl BufRead, size: u64, may_be_infinite: bool, place: Place<'_>) -> Result<Text> {
    let system = |error: std::io::Error| place.system(&error);
    let mut line = Vec::new();
    file.by_ref().take(MAX_HEADER).read_until(b'\n', &mut line).map_err(system)?;
    let header = std::str::from_utf8(&line).ok().and_then(|text| text.strip_suffix('\n')?.trim().split_once(' '));
    let header = header.and_then(|(rows, width)| Some((rows.parse::<u64>().ok()?, width.parse::<u64>().ok()?)));
    let (rows, width) = header.filter(|&(rows, width)| rows > 0 && width > 0).ok_or_else(|| {
        place.wrong(format!("got {} as its first line, want the numbers of rows and columns", shown(&line)))
    })?;
    // A separator and a row take at least this much, which bounds the memory below.
    let least = width.checked_mul(4).and_then(|row| row.checked_add(1)?.checked_mul(rows));
    if least.and_then(|least| least.checked_add(line.len() as u64)).is_none_or(|least| least > size) {
        let wanted = format!("want {rows} rows of {width} columns as in line 1");
        return Err(place.wrong(format!("got {size} bytes, {wanted}")));
    }
    let row_size = width as usize * size_of::<f32>();
    let mut table = Text { keys: Keys::default(), bytes: Vec::new(), width: width as usize };
    table.bytes.reserve_exact(row_size * rows as usize);
    let mut key = Vec::new();
    for number in 1..=rows {
        let wrong = |problem: String| place.wrong(format!("row {number}: {problem}"));
        let cut = || wrong(format!("got the end of the file, want {rows} rows as in line 1"));
        key.clear();
        file.by_ref().take(MAX_KEY).read_until(b' ', &mut key).map_err(system)?;
        if key.pop() != Some(b' ') {
            return Err(if key.len() as u64 + 1 < MAX_KEY { cut() } else { wrong("got no space behind a key".into()) });
        }
        // Most writers end a row with a line end.
        let key = key.strip_prefix(b"\n").unwrap_or(&key);
        let start = table.bytes.len();
        let found = file.by_ref().take(row_size as u64).read_to_end(&mut table.bytes).map_err(system)?;
        if found < row_size {
            return Err(cut());
        }
        let numbers = table.bytes[start..].as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        if let Some(odd) = numbers.into_iter().find(|number| !number.is_finite() && !may_be_infinite) {
            return Err(wrong(format!("got {odd}, want finite numbers")));
        }
        table.keys.push(key).map_err(|error| wrong(error.of(key, "row", 1).to_string()))?;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(file: &[u8]) -> Result<Text, String> {
        read(file, file.len() as u64, false, Place(Path::new("t"))).map_err(|error| error.text().into_owned())
    }

    fn file(header: &str, rows: &[(&str, [f32; 2])], end: &str) -> Vec<u8> {
        let mut file = header.as_bytes().to_vec();
        for (key, numbers) in rows {
            file.extend(format!("{key} ").bytes());
            file.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            file.extend(end.bytes());
        }
        file
    }

    #[test]
    fn rows_are_read_with_and_without_line_ends() {
        for end in ["\n", ""] {
            let table = of(&file("2 2\n", &[("a", [1.0, 2.0]), ("b", [3.0, 4.0])], end)).unwrap();
            assert_eq!((table.keys.find(b"b"), table.width, table.bytes.len()), (Some(1), 2, 16));
        }
    }

    #[test]
    fn damaged_files_are_described() {
        let two = [("a", [1.0, 2.0]), ("b", [3.0, 4.0])];
        let whole = file("2 2\n", &two, "\n");
        for len in 0..whole.len() - 1 {
            assert!(of(&whole[..len]).is_err(), "{len}");
        }
        let error = |file: &[u8]| of(file).err().unwrap();
        assert_eq!(error(b"hello"), "t: got \"hello\" as its first line, want the numbers of rows and columns");
        let huge = error(b"4000000000 4000000000\n");
        assert_eq!(huge, "t: got 22 bytes, want 4000000000 rows of 4000000000 columns as in line 1");
        assert_eq!(error(&whole[..21]), "t: got 21 bytes, want 2 rows of 2 columns as in line 1");
        assert_eq!(error(&whole[..22]), "t: row 2: got the end of the file, want 2 rows as in line 1");
        let twice = file("2 2\n", &[two[0], two[0]], "\n");
        assert_eq!(error(&twice), "t: row 2: got key \"a\" of row 1 again");
        let odd = file("2 2\n", &[two[0], ("b", [f32::NAN, 0.0])], "\n");
        assert_eq!(error(&odd), "t: row 2: got NaN, want finite numbers");
    }
}
