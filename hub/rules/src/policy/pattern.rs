//! Patterns with `*` (any text) and `?` (one character).

/// Whether everything that `inner` matches is matched by `outer` too.
///
/// A wildcard of `inner` is covered only by a `*` of `outer` (or `?` by `?`): sufficient, and
/// exact for patterns as policies have them.
pub(super) fn covers(outer: &str, inner: &str) -> bool {
    let (outer, inner) = (outer.as_bytes(), inner.as_bytes());
    let (mut o, mut i) = (0, 0);
    // Where the last star of `outer` stands, and where in `inner` its text ends so far.
    let mut star: Option<(usize, usize)> = None;
    while let Some(&want) = inner.get(i) {
        match outer.get(o) {
            Some(b'*') => {
                star = Some((o, i));
                o += 1;
            }
            Some(b'?') if want != b'*' => {
                o += 1;
                i += 1;
            }
            Some(&have) if have == want && have != b'?' => {
                o += 1;
                i += 1;
            }
            _ => match star {
                Some((at, text)) => {
                    star = Some((at, text + 1));
                    o = at + 1;
                    i = text + 1;
                }
                None => return false,
            },
        }
    }
    outer
        .get(o..)
        .unwrap_or_default()
        .iter()
        .all(|b| *b == b'*')
}

/// Whether there is a text that both patterns match.
pub(super) fn overlaps(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    // `reached` holds the ends of `b` that fit the part of `a` seen so far.
    let mut reached = vec![false; b.len() + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    skip_stars(&mut reached, b);
    for &letter in a {
        let mut next = vec![false; b.len() + 1];
        if letter == b'*' {
            // Any end beyond one that is reached.
            let mut seen = false;
            for (now, next) in reached.iter().zip(&mut next) {
                seen |= *now;
                *next = seen;
            }
        } else {
            extend(&reached, &mut next, letter, b);
        }
        skip_stars(&mut next, b);
        reached = next;
    }
    reached.last().copied().unwrap_or_default()
}

/// Extends by one letter of `a` that is no star.
fn extend(reached: &[bool], next: &mut [bool], letter: u8, b: &[u8]) {
    for (at, other) in b.iter().enumerate() {
        if !reached.get(at).copied().unwrap_or_default() {
            continue;
        }
        let end = match other {
            b'*' => at,
            b'?' => at + 1,
            other if *other == letter || letter == b'?' => at + 1,
            _ => continue,
        };
        if let Some(end) = next.get_mut(end) {
            *end = true;
        }
    }
}

/// A star of `b` may stand for nothing.
fn skip_stars(reached: &mut [bool], b: &[u8]) {
    for (at, other) in b.iter().enumerate() {
        let is_reached = reached.get(at).copied().unwrap_or_default();
        if let (true, b'*', Some(next)) = (is_reached, other, reached.get_mut(at + 1)) {
            *next = true;
        }
    }
}

/// Whether a pattern matches every action or resource.
pub(super) fn is_anything(pattern: &str) -> bool {
    covers(pattern, "*") || pattern == "*:*"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_it_matches_wholly() {
        for (outer, inner) in [
            ("*", "s3:*"),
            ("s3:*", "s3:GetObject"),
            ("s3:Get*", "s3:GetObject*"),
            ("s3:*Object", "s3:GetObject"),
            ("a?c", "abc"),
            ("a?c", "a?c"),
            ("**", "*"),
            ("arn:*:role/*", "arn:aws:iam::1:role/*"),
        ] {
            assert!(covers(outer, inner), "{outer} {inner}");
            assert!(overlaps(outer, inner), "{outer} {inner}");
        }
        for (outer, inner) in [
            ("s3:*", "*"),
            ("s3:GetObject", "s3:Get*"),
            ("a?c", "a*c"),
            ("abc", "a?c"),
            ("", "a"),
        ] {
            assert!(!covers(outer, inner), "{outer} {inner}");
        }
    }

    #[test]
    fn patterns_overlap_where_a_text_fits_both() {
        assert!(overlaps("s3:*", "*:GetObject"));
        assert!(overlaps("iam:Create*", "iam:*Key"));
        assert!(overlaps("a*b", "a?b"));
        assert!(overlaps("", "*"));
        assert!(!overlaps("s3:Get*", "s3:Put*"));
        assert!(!overlaps("a?", "a"));
        assert!(!overlaps("*x", "*y"));
    }
}
