//! Flow control: when to tell a protocol to pause and when to resume.

/// The marks of one transport, in bytes, and whether its protocol has been told to pause.
#[derive(Clone, Copy, Debug)]
pub struct Watermark {
    high: usize,
    low: usize,
    paused: bool,
}

impl Default for Watermark {
    /// asyncio's defaults: 64 KiB and a quarter of it.
    fn default() -> Self {
        Self { high: 64 * 1024, low: 16 * 1024, paused: false }
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
    /// Sets both marks; a missing one is derived from the other as asyncio does.
    ///
    /// # Errors
    /// Unless `high >= low >= 0`. Nothing changes then.
    pub fn set(&mut self, high: Option<i64>, low: Option<i64>) -> Result<(), LimitsError> {
        let high = high.unwrap_or_else(|| low.map_or(64 * 1024, |low| low.saturating_mul(4)));
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
        let pause = size > self.high && !self.paused;
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
