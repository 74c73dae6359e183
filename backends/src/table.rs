//! What a backend knows about each token: a vector indexed by the caller's slot numbers, checked by generation.

#![forbid(unsafe_code)]

use crate::api::Token;

/// Values addressed by tokens that somebody else hands out densely, at most one per slot.
#[derive(Debug)]
pub(crate) struct Table<T> {
    rows: Vec<Option<(u32, T)>>,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self { rows: Vec::new() }
    }

    /// Sets the value of a token. A value left by an earlier generation of the slot is returned.
    pub(crate) fn insert(&mut self, token: Token, value: T) -> Option<T> {
        let slot = token.slot() as usize;
        if slot >= self.rows.len() {
            self.rows.resize_with(slot + 1, || None);
        }
        self.rows[slot].replace((token.generation(), value)).map(|(_, old)| old)
    }

    #[inline]
    pub(crate) fn get(&self, token: Token) -> Option<&T> {
        match self.rows.get(token.slot() as usize) {
            Some(Some((generation, value))) if *generation == token.generation() => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        match self.rows.get_mut(token.slot() as usize) {
            Some(Some((generation, value))) if *generation == token.generation() => Some(value),
            _ => None,
        }
    }

    /// The token that a slot has now, and its value.
    #[allow(dead_code, reason = "not every platform has a backend that asks by slot")]
    #[inline]
    pub(crate) fn at(&mut self, slot: u32) -> Option<(Token, &mut T)> {
        let (generation, value) = self.rows.get_mut(slot as usize)?.as_mut()?;
        Some((Token::new(slot, *generation), value))
    }

    /// All values with their tokens.
    #[allow(dead_code, reason = "not every platform has a backend that goes through all")]
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Token, &mut T)> {
        self.rows.iter_mut().enumerate().filter_map(|(slot, row)| {
            let (generation, value) = row.as_mut()?;
            Some((Token::new(slot as u32, *generation), value))
        })
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<T> {
        self.get(token)?;
        self.rows[token.slot() as usize].take().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_current_generation_is_found() {
        let mut table = Table::new();
        assert_eq!(table.insert(Token::new(3, 0), 'a'), None);
        assert_eq!(table.insert(Token::new(3, 1), 'b'), Some('a'));
        assert_eq!(table.get(Token::new(3, 0)), None);
        assert_eq!(table.remove(Token::new(3, 0)), None);
        assert_eq!(table.get_mut(Token::new(3, 1)), Some(&mut 'b'));
        assert_eq!(table.at(3), Some((Token::new(3, 1), &mut 'b')));
        assert_eq!(table.iter_mut().count(), 1);
        assert_eq!(table.remove(Token::new(3, 1)), Some('b'));
        assert_eq!(table.at(3), None);
        assert_eq!(table.get(Token::new(3, 1)), None);
        assert_eq!(table.get(Token::new(9, 0)), None);
    }
}
