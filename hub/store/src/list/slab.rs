//! Rows that are found by id and looked at one after the other, in no order.

use std::collections::HashMap;
use std::hash::Hash;

/// The rows. A place that is free is taken by the next row.
#[derive(Debug)]
pub(crate) struct Slab<K, T> {
    rows: Vec<Option<T>>,
    free: Vec<usize>,
    places: HashMap<K, usize>,
}

impl<K, T> Default for Slab<K, T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            free: Vec::new(),
            places: HashMap::new(),
        }
    }
}

impl<K: Hash + Eq, T> Slab<K, T> {
    /// Returns the rows among free places.
    pub(crate) fn rows(&self) -> &[Option<T>] {
        &self.rows
    }

    pub(crate) fn get(&self, id: &K) -> Option<&T> {
        self.rows.get(*self.places.get(id)?)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: &K) -> Option<&mut T> {
        self.at_mut(*self.places.get(id)?)
    }

    /// Returns the row of a place.
    pub(crate) fn at_mut(&mut self, place: usize) -> Option<&mut T> {
        self.rows.get_mut(place)?.as_mut()
    }

    /// Puts a row in the place of the one of that id, or in a free one; returns the place.
    pub(crate) fn put(&mut self, id: K, row: T) -> usize {
        let place = match self.places.get(&id) {
            Some(place) => *place,
            None => {
                let place = self.free.pop().unwrap_or(self.rows.len());
                self.places.insert(id, place);
                place
            }
        };
        match self.rows.get_mut(place) {
            Some(found) => *found = Some(row),
            None => self.rows.push(Some(row)),
        }
        place
    }

    /// Takes a row out, and returns the place that it had.
    pub(crate) fn remove(&mut self, id: &K) -> Option<(usize, T)> {
        let place = self.places.remove(id)?;
        let row = self.rows.get_mut(place)?.take()?;
        self.free.push(place);
        Some((place, row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_holds_what_a_map_would(steps in proptest::collection::vec((0u8..20, any::<bool>()), 0..200)) {
            let (mut slab, mut map) = (Slab::default(), BTreeMap::new());
            for (n, (id, is_put)) in steps.into_iter().enumerate() {
                if is_put {
                    let place = slab.put(id, (id, n));
                    prop_assert_eq!(slab.at_mut(place), Some(&mut (id, n)));
                    map.insert(id, (id, n));
                } else {
                    let removed = slab.remove(&id).map(|(_, row)| row);
                    prop_assert_eq!(removed, map.remove(&id));
                }
                prop_assert_eq!(slab.get(&id), map.get(&id));
            }
            let mut rows: Vec<(u8, usize)> = slab.rows().iter().flatten().copied().collect();
            rows.sort_unstable();
            prop_assert_eq!(rows, map.values().copied().collect::<Vec<_>>());
            prop_assert!(slab.rows().len() <= 20);
        }
    }
}
