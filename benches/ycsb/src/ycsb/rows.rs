//! Checks what scans return: every row, and that no record is missing between them.

use bytes::Bytes;

use super::record::Records;
use crate::driver::Row;

/// Above this many records it is not checked whether scans leave some out: their order takes 8 bytes for each.
pub(crate) const RECORDS_MAX: u64 = 100_000_000;

/// The records that were loaded, in the order of their keys.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Numbers in their keys.
    names: Vec<u64>,
}

/// Orders numbers as their keys order: as text, after zeros were filled in.
#[derive(Debug, Clone, Copy)]
struct TextOrder {
    zero_padding: u32,
}

impl TextOrder {
    /// Digits of the largest number.
    const DIGITS: u32 = 20;

    /// What to compare by: the digits at the left of a number of fixed width, then how many there are.
    fn rank(self, name: u64) -> (u128, u32) {
        let digits = name.checked_ilog10().unwrap_or(0) + 1;
        let digits = digits.max(self.zero_padding.min(TextOrder::DIGITS));
        let shift = 10_u128.pow(TextOrder::DIGITS - digits);
        (u128::from(name) * shift, digits)
    }
}

impl Loaded {
    /// The records with the numbers `numbers`. Takes about a second for each ten million.
    pub(crate) fn new(records: &Records, numbers: std::ops::Range<u64>) -> Loaded {
        let order = order_of(records);
        let mut names: Vec<u64> = numbers.map(|number| records.name(number)).collect();
        names.sort_unstable_by_key(|name| order.rank(*name));
        // Two hashes may be the same; the records then share a key.
        names.dedup();
        Loaded { names }
    }

    /// Checks a scan of at most `limit` rows from the key of `start` (a number in a key) on: no loaded record is missing.
    /// Rows that were not loaded are inserted ones, which [`check_rows`] knows nothing about.
    pub(crate) fn check(
        &self,
        records: &Records,
        start: u64,
        limit: u64,
        rows: &[Row],
    ) -> Result<(), String> {
        let order = order_of(records);
        let from = self
            .names
            .partition_point(|name| order.rank(*name) < order.rank(start));
        let mut expected = self.names[from..]
            .iter()
            .map(|name| records.key_of_name(*name))
            .peekable();
        for (key, _) in rows {
            match expected.peek() {
                Some(next) if next < key => return Err(left_out(next)),
                Some(next) if next == key => {
                    expected.next();
                }
                _ => {}
            }
        }
        match expected.peek() {
            Some(next) if (rows.len() as u64) < limit => Err(left_out(next)),
            _ => Ok(()),
        }
    }
}

fn order_of(records: &Records) -> TextOrder {
    TextOrder {
        zero_padding: u32::try_from(records.layout().zero_padding).unwrap_or(u32::MAX),
    }
}

fn left_out(key: &Bytes) -> String {
    format!("a scan left out key {key:?}")
}

/// Checks the rows of a scan of at most `limit` from key `start` on: their order, and each value.
pub(crate) fn check_rows(records: &Records, start: &Bytes, limit: u64, rows: &[Row]) -> Result<(), String> {
    if rows.len() as u64 > limit {
        return Err(format!("a scan of {limit} rows returned {}", rows.len()));
    }
    let mut last: Option<&Bytes> = None;
    for (key, value) in rows {
        if key < start || last.is_some_and(|last| key <= last) {
            return Err(format!("a scan from {start:?} returned key {key:?} out of order"));
        }
        records
            .check(key, value)
            .map_err(|why| format!("a scan returned key {key:?}, whose value {why}"))?;
        last = Some(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::record::Layout;
    use super::*;

    fn records(ordered: bool, zero_padding: usize) -> Records {
        Records::new(Layout {
            table: "t".to_owned(),
            ordered,
            zero_padding,
            field_count: 2,
            field_length: 20,
        })
    }

    #[test]
    fn numbers_order_as_their_keys() {
        for padding in [1, 3, 19, 20, 25] {
            let records = records(true, padding);
            let order = order_of(&records);
            let mut names: Vec<u64> = (0..1_200)
                .chain([u64::MAX, u64::MAX - 1, 10_u64.pow(19)])
                .collect();
            names.sort_by_key(|name| order.rank(*name));
            let keys: Vec<Bytes> = names.iter().map(|name| records.key_of_name(*name)).collect();
            assert!(keys.is_sorted(), "padding {padding}");
        }
    }

    /// Rows of the table in key order: the loaded records, and one that was inserted later.
    fn table(records: &Records, loaded: u64) -> Vec<Row> {
        let mut rows: Vec<Row> = (0..=loaded)
            .map(|number| records.key(number))
            .map(|key| (key.clone(), records.new_record(&key, 3)))
            .collect();
        rows.sort();
        rows
    }

    fn check(records: &Records, start: &Row, limit: u64, rows: &[Row], loaded: u64) -> Result<(), String> {
        check_rows(records, &start.0, limit, rows)?;
        let name = (0..=loaded)
            .map(|number| records.name(number))
            .find(|name| records.key_of_name(*name) == start.0);
        Loaded::new(records, 0..loaded).check(records, name.unwrap(), limit, rows)
    }

    #[test]
    fn true_scans_are_accepted() {
        for ordered in [true, false] {
            let records = records(ordered, 1);
            let rows = table(&records, 40);
            for from in 0..rows.len() {
                for limit in [1, 7, 100] {
                    let to = rows.len().min(from + limit);
                    check(&records, &rows[from], limit as u64, &rows[from..to], 40).unwrap();
                }
            }
        }
    }

    #[test]
    fn wrong_scans_are_refused() {
        let records = records(false, 1);
        let rows = table(&records, 40);
        let inserted = records.key(40);
        for gap in 6..14 {
            let mut holed = rows[5..15].to_vec();
            let (key, _) = holed.remove(gap - 5);
            let verdict = check(&records, &rows[5], 9, &holed, 40);
            assert_eq!(verdict.is_err(), key != inserted, "{gap}");
        }
        let cut = check(&records, &rows[5], 10, &rows[5..14], 40).unwrap_err();
        assert!(cut.contains("left out"), "{cut}");
        let many = check(&records, &rows[5], 9, &rows[5..15], 40).unwrap_err();
        assert!(many.contains("of 9 rows returned 10"), "{many}");
        let mut turned = rows[5..15].to_vec();
        turned.swap(3, 4);
        assert!(
            check(&records, &rows[5], 10, &turned, 40)
                .unwrap_err()
                .contains("out of order")
        );
        let before = check(&records, &rows[5], 10, &rows[4..14], 40).unwrap_err();
        assert!(before.contains("out of order"), "{before}");
        let mut foreign = rows[5..15].to_vec();
        foreign[2].1 = foreign[3].1.clone();
        assert!(
            check(&records, &rows[5], 10, &foreign, 40)
                .unwrap_err()
                .contains("whose value")
        );
    }
}
