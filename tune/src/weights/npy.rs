//! Matrices in NumPy's `.npy` format: the form in which people hand a matrix to `quanta circuit`.
//!
//! Only what a matrix needs: versions 1 to 3, little-endian f4 and f8, two axes, either order. Everything else is refused by name.

use std::path::Path;

use super::WeightsError;

const MAGIC: &[u8] = b"\x93NUMPY";

/// A matrix read from a file: row-major values.
#[derive(Clone, Debug, PartialEq)]
pub struct NpyMatrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Values, row after row.
    pub values: Vec<f64>,
}

/// Reads a two-axis `.npy` file.
///
/// # Errors
/// [`WeightsError::Io`] when it cannot be read, [`WeightsError::Npy`] when it is damaged or holds anything but a matrix of floating-point numbers.
pub fn read_npy(path: &Path) -> Result<NpyMatrix, WeightsError> {
    let bytes = std::fs::read(path).map_err(WeightsError::io("read", path))?;
    parse(&bytes).map_err(|reason| WeightsError::Npy { path: path.to_owned(), reason })
}

fn parse(bytes: &[u8]) -> Result<NpyMatrix, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin as an npy file")?;
    let (&major, rest) = rest.split_first().ok_or("it ends within its header")?;
    let rest = rest.get(1..).ok_or("it ends within its header")?;
    let (length, rest) = match major {
        1 => rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
        2 | 3 => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
        other => return Err(format!("version {other} of the format is not known")),
    }
    .ok_or("it ends within its header")?;
    let header = rest.get(..length).ok_or("it ends within its header")?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is no text")?;
    let data = &rest[length..];
    let wide = match value_of(header, "descr")?.trim_matches(['\'', '"']) {
        "<f8" => true,
        "<f4" => false,
        other => return Err(format!("its numbers are `{other}`: save them as float32 or float64")),
    };
    let shape = value_of(header, "shape")?;
    let axes: Option<Vec<usize>> = shape
        .trim_matches(['(', ')'])
        .split(',')
        .map(str::trim)
        .filter(|axis| !axis.is_empty())
        .map(|axis| axis.parse().ok())
        .collect();
    let Some([rows, cols]) = axes.as_deref().and_then(|axes| <[usize; 2]>::try_from(axes).ok()) else {
        return Err(format!("its shape is {shape}: a matrix has two axes"));
    };
    let expected = rows.checked_mul(cols).and_then(|count| count.checked_mul(if wide { 8 } else { 4 }));
    if expected != Some(data.len()) {
        return Err(format!("a {rows} x {cols} matrix does not take the {} bytes that it holds", data.len()));
    }
    let values: Vec<f64> = if wide {
        data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
    } else {
        data.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
    };
    let values = match value_of(header, "fortran_order")? {
        "True" => (0..rows * cols).map(|i| values[i % cols * rows + i / cols]).collect(),
        _ => values,
    };
    Ok(NpyMatrix { rows, cols, values })
}

/// The text of a key's value in the header, a Python dictionary of three plain entries.
fn value_of<'a>(header: &'a str, key: &str) -> Result<&'a str, String> {
    let missing = || format!("its header says no {key}");
    let at = header.find(&format!("'{key}':")).ok_or_else(missing)?;
    let value = header[at + key.len() + 3..].trim_start();
    let end = if value.starts_with('(') { value.find(')').map(|end| end + 1) } else { value.find([',', '}']) };
    Ok(value[..end.ok_or_else(missing)?].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn both_orders_and_both_types_are_read() {
        let values = [1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0];
        let wide: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let narrow: Vec<u8> = values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
        let matrix = NpyMatrix { rows: 2, cols: 3, values: values.to_vec() };
        assert_eq!(parse(&file("<f8", "False", "(2, 3)", &wide)), Ok(matrix.clone()));
        assert_eq!(parse(&file("<f4", "False", "(2, 3)", &narrow)), Ok(matrix));
        let transposed = parse(&file("<f8", "True", "(2, 3)", &wide)).map(|matrix| matrix.values);
        assert_eq!(transposed, Ok(vec![1.0, 3.0, 5.0, 2.0, 4.0, 6.0]));
    }

    #[test]
    fn damaged_and_foreign_files_are_refused() {
        let good = file("<f8", "False", "(1, 1)", &1.0f64.to_le_bytes());
        assert!(parse(&good).is_ok());
        for end in 0..good.len() {
            assert!(parse(&good[..end]).is_err(), "cut at {end}");
        }
        let eight = 1.0f64.to_le_bytes();
        for (descr, shape) in [
            (">f8", "(1, 1)"),
            ("<i8", "(1, 1)"),
            ("<f8", "(1,)"),
            ("<f8", "(1, 1, 1)"),
            ("<f8", "(9223372036854775808, 2)"),
        ] {
            assert!(parse(&file(descr, "False", shape, &eight)).is_err(), "{descr} {shape}");
        }
        assert!(parse(&file("<f8", "False", "(4294967296, 4294967296)", &eight)).is_err());
    }
}
