//! Standard output.

use std::{
    fmt,
    io::{self, Write as _},
};

use keyferry_runtime::exit::Fatal;

/// Writes one answer and a line break. That nobody reads on (`| head`) is no fault.
pub(crate) fn out(what: impl fmt::Display) -> Result<(), Fatal> {
    match writeln!(io::stdout().lock(), "{what}") {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Fatal::failure(format_args!("standard output can not be written: {e}")))
        }
        _ => Ok(()),
    }
}

/// Rows under a head, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; N]| {
        let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(line);
    std::iter::once(line(&head.map(str::to_uppercase))).chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_heads() {
        let rows = [["DE".into(), "active".into()], ["LU".into(), "-".into()]];
        assert_eq!(table(["country", "state"], &rows), "COUNTRY  STATE\nDE       active\nLU       -");
    }
}
