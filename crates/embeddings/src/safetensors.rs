//! The safetensors format: the length of a header in eight bytes, a JSON object with the tensors, and their bytes.

use serde_json::{Map, Value};

use servable_model::error::Result;

use crate::layout::{Layout, Scales};
use crate::numbers::Kind;
use crate::place::Place;

/// The limit of the format.
const MAX_HEADER: u64 = 100_000_000;

/// The size of the header in the first eight bytes, without them.
///
/// # Errors
///
/// `DATA_LOSS` if it is larger than the format allows.
pub(crate) fn header_size(first: [u8; 8], place: Place<'_>) -> Result<usize> {
    let size = u64::from_le_bytes(first);
    if size > MAX_HEADER {
        return Err(place.wrong(format!("got a header of {size} bytes, want at most {MAX_HEADER}")));
    }
    Ok(size as usize)
}

/// Reads which tensor is the table, and where it is.
///
/// # Errors
///
/// `DATA_LOSS` if the header is damaged, or the tensor cannot be served or is not there.
pub(crate) fn read_layout(header: &[u8], tensor: &str, scales: &str, place: Place<'_>) -> Result<Layout> {
    let parsed: Map<String, Value> = serde_json::from_slice(header)
        .map_err(|error| place.wrong(format!("got a header that is no JSON object ({error}), want one")))?;
    let start = 8 + header.len();
    let mut tensors = Vec::new();
    for (name, value) in parsed.iter().filter(|(name, _)| *name != "__metadata__") {
        let found = Stored::read(value, start);
        tensors.push((name.as_str(), found.ok_or_else(|| place.wrong(format!("got a damaged entry \"{name}\"")))?));
    }
    let names = || {
        let names: Vec<String> =
            tensors.iter().take(10).map(|(name, each)| format!("{name} {:?}", each.shape)).collect();
        names.join(", ")
    };
    let mut tables = tensors.iter().filter(|(name, each)| {
        if tensor.is_empty() { each.shape.len() == 2 && *name != scales } else { *name == tensor }
    });
    let (name, table) = match (tables.next(), tables.next()) {
        (Some(found), None) => found,
        _ if tensor.is_empty() => {
            let wanted = "want one with 2 dimensions, or its name as the option \"tensor\"";
            return Err(place.wrong(format!("got the tensors {}; {wanted}", names())));
        }
        _ => return Err(place.wrong(format!("got the tensors {}; want \"{tensor}\"", names()))),
    };
    let [rows, width] = table.shape[..] else {
        let found = format!("got the shape {:?} of \"{name}\"", table.shape);
        return Err(place.wrong(format!("{found}, want 2 dimensions: rows and columns")));
    };
    let kind = kind_of(table.dtype).ok_or_else(|| {
        place.wrong(format!("got the dtype {} of \"{name}\", want F32, F16, BF16, F64 or I8", table.dtype))
    })?;
    table.check(name, kind.size(), place)?;
    let scales = tensors.iter().find(|(name, _)| kind == Kind::Int8 && *name == scales);
    let scales = scales.map(|(name, each)| scales_of(name, each, rows, place)).transpose()?;
    Ok(Layout { kind, rows, width, start: table.start, scales })
}

fn scales_of(name: &str, stored: &Stored<'_>, rows: usize, place: Place<'_>) -> Result<Scales> {
    if stored.dtype != "F32" {
        return Err(place.wrong(format!("got the dtype {} of \"{name}\", want F32", stored.dtype)));
    }
    stored.check(name, size_of::<f32>(), place)?;
    match stored.shape[..] {
        [count] | [count, 1] if count == rows => Ok(Scales::Rows(stored.start)),
        [] | [1] | [1, 1] => Ok(Scales::One(stored.start)),
        _ => {
            let found = format!("got the shape {:?} of \"{name}\"", stored.shape);
            Err(place.wrong(format!("{found}, want [{rows}], [{rows}, 1] or [1]")))
        }
    }
}

fn kind_of(dtype: &str) -> Option<Kind> {
    Some(match dtype {
        "F32" => Kind::Float32,
        "F64" => Kind::Float64,
        "F16" => Kind::Float16,
        "BF16" => Kind::BFloat16,
        "I8" => Kind::Int8,
        _ => return None,
    })
}

struct Stored<'a> {
    dtype: &'a str,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

impl<'a> Stored<'a> {
    fn read(value: &'a Value, data: usize) -> Option<Self> {
        let number = |value: &Value| usize::try_from(value.as_u64()?).ok();
        let shape = value.get("shape")?.as_array()?.iter().map(number).collect::<Option<_>>()?;
        let [start, end] = &value.get("data_offsets")?.as_array()?[..] else { return None };
        let (start, end) = (number(start)?.checked_add(data)?, number(end)?.checked_add(data)?);
        Some(Self { dtype: value.get("dtype")?.as_str()?, shape, start, end }).filter(|_| start <= end)
    }

    /// Checks that the offsets fit the shape.
    fn check(&self, name: &str, size: usize, place: Place<'_>) -> Result<()> {
        let wanted = self.shape.iter().try_fold(size, |bytes, &size| bytes.checked_mul(size));
        if wanted == Some(self.end - self.start) {
            return Ok(());
        }
        let found = self.end - self.start;
        let wanted = wanted.map_or_else(|| "fewer elements".to_owned(), |bytes| bytes.to_string());
        Err(place.wrong(format!("got {found} bytes of \"{name}\", want {wanted} for its shape {:?}", self.shape)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(header: &str, tensor: &str) -> Result<Layout, String> {
        let found = read_layout(header.as_bytes(), tensor, "scales", Place(Path::new("a")));
        found.map_err(|error| error.text().into_owned())
    }

    const TABLE: &str = r#""t":{"dtype":"I8","shape":[3,2],"data_offsets":[12,18]}"#;

    #[test]
    fn the_only_matrix_is_the_table_and_the_scales_are_found() {
        let header = format!(r#"{{"scales":{{"dtype":"F32","shape":[3,1],"data_offsets":[0,12]}},{TABLE}}}"#);
        let data = 8 + header.len();
        let scales = Some(Scales::Rows(data));
        assert_eq!(read(&header, ""), Ok(Layout { kind: Kind::Int8, rows: 3, width: 2, start: data + 12, scales }));
        let one = header.replace("[3,1]", "[1]").replace("[0,12]", "[0,4]");
        assert_eq!(read(&one, "").unwrap().scales, Some(Scales::One(8 + one.len())));
        let five = header.replace("[3,1]", "[5]").replace("[0,12]", "[0,20]");
        assert_eq!(read(&five, "").unwrap_err(), "a: got the shape [5] of \"scales\", want [3], [3, 1] or [1]");
    }

    #[test]
    fn several_matrices_need_a_name() {
        let header = format!(r#"{{"__metadata__":{{"format":"pt"}},{TABLE},{}}}"#, TABLE.replace("\"t\"", "\"u\""));
        let found = read(&header, "").unwrap_err();
        let wanted = "want one with 2 dimensions, or its name as the option \"tensor\"";
        assert_eq!(found, format!("a: got the tensors t [3, 2], u [3, 2]; {wanted}"));
        assert_eq!(read(&header, "u").unwrap().rows, 3);
        assert_eq!(read(&header, "v").unwrap_err(), "a: got the tensors t [3, 2], u [3, 2]; want \"v\"");
    }

    #[test]
    fn damaged_headers_are_errors() {
        let of = |entry: &str| read(&format!("{{{entry}}}"), "").unwrap_err();
        assert!(of(&TABLE.replace("18", "19")).contains("got 7 bytes of \"t\", want 6 for its shape [3, 2]"));
        assert!(of(&TABLE.replace("I8", "F8_E4M3")).contains("want F32, F16, BF16, F64 or I8"));
        assert!(of(&TABLE.replace("18", "1")).contains("damaged entry \"t\""));
        assert!(of(&TABLE.replace("18", "-1")).contains("damaged entry \"t\""));
        assert!(of(&TABLE.replace("[3,2]", "[9223372036854775807,9]")).contains("want fewer elements"));
        assert!(read("[]", "").unwrap_err().contains("no JSON object"));
        assert!(header_size(*b"\xff\xff\xff\xff\0\0\0\0", Place(Path::new("a"))).is_err());
    }
}
