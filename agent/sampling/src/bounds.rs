//! Bounds of a gauge that its source knows, such as the thresholds in an optical module, and where a value lies in them.
//!
//! In: values in the gauge's unit. Out: within, beyond a warning, beyond an alarm. A value returns from beyond a bound only
//! when it is back by a fiftieth of that bound, so that noise around it is not news. Never: a judgement by a bound that
//! is not given.

/// Four bounds; a bound that is `None` never speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// Above it is an alarm.
    pub high_alarm: Option<f64>,
    /// Below it is an alarm.
    pub low_alarm: Option<f64>,
    /// Above it is a warning.
    pub high_warning: Option<f64>,
    /// Below it is a warning.
    pub low_warning: Option<f64>,
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Within,
    HighWarning,
    LowWarning,
    HighAlarm,
    LowAlarm,
}

impl Place {
    /// As told in a signal's cause.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::HighWarning => "high_warning",
            Self::LowWarning => "low_warning",
            Self::HighAlarm => "high_alarm",
            Self::LowAlarm => "low_alarm",
        }
    }

    pub(crate) fn is_alarm(self) -> bool {
        matches!(self, Self::HighAlarm | Self::LowAlarm)
    }

    /// Going from here to `next` is news: out of the warnings' range, out of the alarms', or back in. An alarm that becomes
    /// a warning is neither.
    pub(crate) fn is_news(self, next: Self) -> bool {
        self != next && (next == Self::Within || next.is_alarm() || !self.is_alarm())
    }
}

/// Part of a bound by which a value must be back.
const BACK_BY: f64 = 0.02;

impl Bounds {
    /// Where a value lies that lay at `from` before.
    pub(crate) fn place(&self, value: f64, from: Place) -> Place {
        let margin = |bound: f64, is_beyond: bool| if is_beyond { bound.abs() * BACK_BY } else { 0.0 };
        let above = |bound: Option<f64>, is_beyond: bool| bound.is_some_and(|b| value > b - margin(b, is_beyond));
        let below = |bound: Option<f64>, is_beyond: bool| bound.is_some_and(|b| value < b + margin(b, is_beyond));
        let was_high = matches!(from, Place::HighAlarm | Place::HighWarning);
        let was_low = matches!(from, Place::LowAlarm | Place::LowWarning);
        match () {
            () if above(self.high_alarm, from == Place::HighAlarm) => Place::HighAlarm,
            () if below(self.low_alarm, from == Place::LowAlarm) => Place::LowAlarm,
            () if above(self.high_warning, was_high) => Place::HighWarning,
            () if below(self.low_warning, was_low) => Place::LowWarning,
            () => Place::Within,
        }
    }

    /// The bound that a value at `place` lies beyond.
    pub(crate) fn beyond(&self, place: Place) -> Option<f64> {
        match place {
            Place::Within => None,
            Place::HighWarning => self.high_warning,
            Place::LowWarning => self.low_warning,
            Place::HighAlarm => self.high_alarm,
            Place::LowAlarm => self.low_alarm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds =
        Bounds { high_alarm: Some(100.0), low_alarm: Some(10.0), high_warning: Some(80.0), low_warning: Some(20.0) };

    #[test]
    fn a_value_lies_beyond_the_furthest_bound_it_passed_and_returns_with_a_margin() {
        use Place::{HighAlarm, HighWarning, LowAlarm, LowWarning, Within};
        for (from, value, expected) in [
            (Within, 50.0, Within),
            (Within, 80.0, Within),
            (Within, 80.1, HighWarning),
            (HighWarning, 79.0, HighWarning),
            (HighWarning, 78.3, Within),
            (Within, 101.0, HighAlarm),
            (HighAlarm, 99.0, HighAlarm),
            (HighAlarm, 97.0, HighWarning),
            (Within, 19.9, LowWarning),
            (LowWarning, 20.3, LowWarning),
            (LowWarning, 20.5, Within),
            (Within, 0.0, LowAlarm),
            (LowAlarm, 10.1, LowAlarm),
            (HighAlarm, 0.0, LowAlarm),
        ] {
            assert_eq!(BOUNDS.place(value, from), expected, "{value} from {from:?}");
        }
    }

    #[test]
    fn a_bound_that_is_not_given_never_speaks() {
        for value in [-1e9, 0.0, 1e9] {
            assert_eq!(Bounds::default().place(value, Place::Within), Place::Within);
        }
    }

    #[test]
    fn worse_and_well_again_are_news_and_better_is_not() {
        use Place::{HighAlarm, HighWarning, LowAlarm, Within};
        for (from, to, expected) in [
            (Within, HighWarning, true),
            (HighWarning, HighAlarm, true),
            (HighAlarm, HighWarning, false),
            (HighWarning, Within, true),
            (HighAlarm, LowAlarm, true),
            (HighAlarm, HighAlarm, false),
        ] {
            assert_eq!(from.is_news(to), expected, "{from:?} {to:?}");
        }
    }
}
