//! Flow control: when to tell a protocol to pause and when to resume.

/// The marks of one transport, in bytes, and whether its protocol has been told to pause.
#[derive(Clone, Copy, Debug)]
pub struct Watermark {
    high: usize,
    low: usize,
    paused: bool,
    /// The high mark if none is given.
    default_high: usize,
    /// Reaching the high mark is enough, as in asyncio's TLS; plain streams pause above it.
    at_mark: bool,
}

impl Default for Watermark {
    /// asyncio's defaults: 64 KiB and a quarter of it.
    fn default() -> Self {
        Self { high: 64 * 1024, low: 16 * 1024, paused: false, default_high: 64 * 1024, at_mark: false }
    }
}

/// The limits asked for are not `high >= low >= 0`. Holds both as they would have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsError {
    /// The high mark.
    pub high: i64,
    /// The low mark.
    pub low: i64,
}

impl Watermark {
    /// Marks that call for a pause as soon as `high` bytes wait, and by default for going on at a quarter of them.
    #[must_use]
    pub fn reached_at(high: usize) -> Self {
        Self { high, low: high / 4, paused: false, default_high: high, at_mark: true }
    }

    /// Sets both marks; a missing one is derived from the other as asyncio does.
    ///
    /// # Errors
    /// Unless `high >= low >= 0`. Nothing changes then.
    pub fn set(&mut self, high: Option<i64>, low: Option<i64>) -> Result<(), LimitsError> {
        let default = self.default_high as i64;
        let high = high.unwrap_or_else(|| low.map_or(default, |low| low.saturating_mul(4)));
        let low = low.unwrap_or(high.div_euclid(4));
        let error = LimitsError { high, low };
        if high < low {
            return Err(error);
        }
        (self.low, self.high) = (usize::try_from(low).map_err(|_| error)?, usize::try_from(high).map_err(|_| error)?);
        Ok(())
    }

    /// `(low, high)`, as `get_write_buffer_limits` returns them.
    #[must_use]
    pub fn limits(&self) -> (usize, usize) {
        (self.low, self.high)
    }

    /// The high mark.
    #[must_use]
    pub fn high(&self) -> usize {
        self.high
    }

    /// Whether the protocol has been told to pause and not to resume.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether the protocol must be told to pause now that `size` bytes wait. Says so once.
    pub fn must_pause(&mut self, size: usize) -> bool {
        // At the low mark nobody pauses: the same size would call for going on.
        let full = size > self.high || (self.at_mark && size == self.high && size > self.low);
        let pause = full && !self.paused;
        self.paused |= pause;
        pause
    }

    /// Whether the protocol must be told to resume now that `size` bytes wait. Says so once.
    pub fn must_resume(&mut self, size: usize) -> bool {
        let resume = self.paused && size <= self.low;
        self.paused &= !resume;
        resume
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_above_high_and_resumes_at_low_once_each() {
        let mut mark = Watermark::default();
        mark.set(Some(10), Some(2)).unwrap();
        let told: Vec<_> = [10, 11, 20, 3, 2, 0, 11].map(|size| (mark.must_pause(size), mark.must_resume(size))).into();
        let no = (false, false);
        assert_eq!(told, [no, (true, false), no, no, (false, true), no, (true, false)]);
    }

    #[test]
    fn marks_that_pause_when_reached() {
        let mut mark = Watermark::reached_at(100);
        assert_eq!(mark.limits(), (25, 100));
        let told: Vec<_> = [99, 100, 26, 25].map(|size| (mark.must_pause(size), mark.must_resume(size))).into();
        assert_eq!(told, [(false, false), (true, false), (false, false), (false, true)]);
        mark.set(None, None).unwrap();
        assert_eq!(mark.limits(), (25, 100), "its own defaults");
        mark.set(Some(0), None).unwrap();
        assert!(!mark.must_pause(0) && mark.must_pause(1) && mark.must_resume(0));
    }

    #[test]
    fn missing_marks_are_derived() {
        let mut mark = Watermark::default();
        for (high, low, limits) in [
            (None, None, (16 * 1024, 64 * 1024)),
            (Some(100), None, (25, 100)),
            (None, Some(7), (7, 28)),
            (Some(0), None, (0, 0)),
        ] {
            mark.set(high, low).unwrap();
            assert_eq!(mark.limits(), limits);
        }
    }

    #[test]
    fn impossible_marks_change_nothing() {
        let mut mark = Watermark::default();
        assert_eq!(mark.set(Some(1), Some(2)), Err(LimitsError { high: 1, low: 2 }));
        assert_eq!(mark.set(Some(-5), None), Err(LimitsError { high: -5, low: -2 }));
        assert_eq!(mark.limits(), (16 * 1024, 64 * 1024));
    }
}
