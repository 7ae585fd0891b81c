//! Rows as a start finds them, in two large blocks: a hundred thousand small ones would stay in the allocator's hands for
//! as long as the process lives.

/// Numbers and values, in the order in which they were found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rows {
    /// Each row's number, and where its value ends in `values`.
    ends: Vec<(u64, usize)>,
    values: Vec<u8>,
}

impl Rows {
    /// One more.
    pub(super) fn push(&mut self, number: u64, value: &[u8]) {
        self.values.extend_from_slice(value);
        self.ends.push((number, self.values.len()));
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut start = 0;
        self.ends.iter().filter_map(move |(number, end)| {
            let value = self.values.get(start..*end)?;
            start = *end;
            Some((*number, value))
        })
    }
}
