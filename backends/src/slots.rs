//! A slab whose keys are [`Token`]s: a place's generation grows when it is vacated, so a late report for its former
//! owner finds nobody.

#![forbid(unsafe_code)]

use std::mem;

use crate::api::Token;

/// Values addressed by generational tokens.
#[derive(Debug)]
pub struct Slots<T> {
    places: Vec<Place<T>>,
    /// The first vacant place, or `places.len()`.
    free: u32,
    len: usize,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Occupied(T),
    /// The next vacant place; one past the end for the last.
    Vacant(u32),
}

impl<T> Slots<T> {
    /// An empty slab; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { places: Vec::new(), free: 0, len: 0 }
    }

    /// The number of values.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores a value and returns its token.
    ///
    /// # Panics
    /// With 2^32 - 1 values: the last slot number is reserved for the backends themselves.
    pub fn insert(&mut self, value: T) -> Token {
        self.insert_with(|_| value)
    }

    /// Stores the value that `make` builds knowing its own token.
    ///
    /// # Panics
    /// As [`insert`](Slots::insert).
    pub fn insert_with(&mut self, make: impl FnOnce(Token) -> T) -> Token {
        let slot = self.free;
        if slot as usize == self.places.len() {
            assert!(slot < u32::MAX - 1, "too many slots");
            self.places.push(Place { generation: 0, content: Content::Vacant(slot + 1) });
        }
        let place = &mut self.places[slot as usize];
        let token = Token::new(slot, place.generation);
        let value = make(token);
        let Content::Vacant(next) = mem::replace(&mut place.content, Content::Occupied(value)) else {
            unreachable!("the free list holds vacant places only");
        };
        self.free = next;
        self.len += 1;
        token
    }

    /// Takes a value out; `None` for a stale token.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let place = self.places.get_mut(token.slot() as usize)?;
        if place.generation != token.generation() || !matches!(place.content, Content::Occupied(_)) {
            return None;
        }
        let Content::Occupied(value) = mem::replace(&mut place.content, Content::Vacant(self.free)) else {
            unreachable!("checked above");
        };
        place.generation = place.generation.wrapping_add(1);
        self.free = token.slot();
        self.len -= 1;
        Some(value)
    }

    /// The value of a token; `None` for a stale one.
    #[must_use]
    pub fn get(&self, token: Token) -> Option<&T> {
        match self.places.get(token.slot() as usize) {
            Some(Place { generation, content: Content::Occupied(value) }) if *generation == token.generation() => {
                Some(value)
            }
            _ => None,
        }
    }

    /// The value of a token; `None` for a stale one.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        match self.places.get_mut(token.slot() as usize) {
            Some(Place { generation, content: Content::Occupied(value) }) if *generation == token.generation() => {
                Some(value)
            }
            _ => None,
        }
    }

    /// The token that a place has now; `None` if it is vacant.
    #[must_use]
    pub fn token_at(&self, slot: u32) -> Option<Token> {
        match self.places.get(slot as usize) {
            Some(Place { generation, content: Content::Occupied(_) }) => Some(Token::new(slot, *generation)),
            _ => None,
        }
    }

    /// Whether the token is current.
    #[must_use]
    pub fn contains(&self, token: Token) -> bool {
        self.get(token).is_some()
    }

    /// All values with their tokens, by place.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.places.iter().enumerate().filter_map(|(slot, place)| match &place.content {
            Content::Occupied(value) => Some((Token::new(slot as u32, place.generation), value)),
            Content::Vacant(_) => None,
        })
    }

    /// All values with their tokens, by place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Token, &mut T)> {
        self.places.iter_mut().enumerate().filter_map(|(slot, place)| match &mut place.content {
            Content::Occupied(value) => Some((Token::new(slot as u32, place.generation), value)),
            Content::Vacant(_) => None,
        })
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_place_has_a_new_token() {
        let mut slots = Slots::new();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(second.slot(), first.slot());
        assert_ne!(second, first);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut "second"));
        assert_eq!(slots.token_at(second.slot()), Some(second));
        assert_eq!(slots.token_at(second.slot() + 1), None);
    }

    #[test]
    fn vacated_places_are_used_before_new_ones() {
        let mut slots = Slots::new();
        let tokens: Vec<_> = (0..5).map(|n| slots.insert(n)).collect();
        for token in &tokens[1..4] {
            slots.remove(*token);
        }
        let again: Vec<_> = (5..8).map(|n| slots.insert(n).slot()).collect();
        assert_eq!(again, [3, 2, 1]);
        assert_eq!(slots.insert(8).slot(), 5);
        assert_eq!(slots.len(), 6);
        assert_eq!(slots.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 7, 6, 5, 4, 8]);
    }

    #[test]
    fn the_value_may_know_its_token() {
        let mut slots = Slots::new();
        slots.insert_with(|_| Token::new(0, 0));
        let token = slots.insert_with(|token| token);
        assert_eq!(slots.get(token), Some(&token));
        assert!(slots.contains(token));
        for (key, value) in slots.iter_mut() {
            assert_eq!(key, *value);
        }
    }
}
