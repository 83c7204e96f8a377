//! One diagnosis key as it was sent.

use std::fmt;

use bytes::Bytes;

use super::{Code, Codes};

/// What a key is based on: the enum of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportType {
    /// Not said.
    Unknown = 0,
    /// A test in a laboratory.
    ConfirmedTest = 1,
    /// A diagnosis without a test.
    ConfirmedClinicalDiagnosis = 2,
    /// The word of its owner.
    SelfReport = 3,
    /// Exposure to another case.
    Recursive = 4,
    /// An earlier report is taken back.
    Revoked = 5,
}

impl ReportType {
    /// Every report type, by its number.
    pub const ALL: [Self; 6] = [
        Self::Unknown,
        Self::ConfirmedTest,
        Self::ConfirmedClinicalDiagnosis,
        Self::SelfReport,
        Self::Recursive,
        Self::Revoked,
    ];

    /// The one with this number.
    #[must_use]
    pub fn of(number: i32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Its name in the JSON form.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::ConfirmedTest => "CONFIRMED_TEST",
            Self::ConfirmedClinicalDiagnosis => "CONFIRMED_CLINICAL_DIAGNOSIS",
            Self::SelfReport => "SELF_REPORT",
            Self::Recursive => "RECURSIVE",
            Self::Revoked => "REVOKED",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}

/// A diagnosis key with the fields of `proto/efgs.proto`. Nothing of it is judged yet.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DiagnosisKey {
    /// The temporary exposure key: 16 bytes if it is one.
    pub key_data: Bytes,
    /// Start of validity, in intervals of ten minutes since 1970.
    pub rolling_start_interval_number: u32,
    /// Length of validity, in intervals of ten minutes.
    pub rolling_period: u32,
    /// 0 to 8, or [`super::RISK_LEVEL_UNSET`].
    pub transmission_risk_level: i32,
    /// The countries of interest.
    pub visited_countries: Codes,
    /// The country that uploads.
    pub origin: Code,
    /// Number of a [`ReportType`].
    pub report_type: i32,
    /// Days since onset of symptoms, coded by range ([`Onset`]).
    pub days_since_onset_of_symptoms: i32,
}

impl fmt::Debug for DiagnosisKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiagnosisKey(redacted, origin {:?})", self.origin)
    }
}

/// What a backend says about the onset of symptoms, by the ranges agreed for EFGS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onset {
    /// -14..=21: days since a known onset; 0 is the day of onset.
    Known,
    /// n * 100 - 14 ..= n * 100 + 21 for n of 1..=19: onset within n days.
    Range,
    /// 1986..=2014: symptoms, onset unknown; 2000 is the day of submission.
    Unknown,
    /// 2986..=3014: no symptoms; 3000 is the day of submission.
    Asymptomatic,
    /// 3986..=4014: no information; 4000 is the day of submission.
    NoInformation,
}

impl Onset {
    /// The range in which `value` lies; `None` outside all of them.
    #[must_use]
    pub fn of(value: i32) -> Option<Self> {
        match value {
            -14..=21 => Some(Self::Known),
            1986..=2014 => Some(Self::Unknown),
            2986..=3014 => Some(Self::Asymptomatic),
            3986..=4014 => Some(Self::NoInformation),
            86..=1921 => {
                let past = (value + 14) % 100;
                (past <= 35).then_some(Self::Range)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn onset_ranges() {
        let table = [
            (-15, None),
            (-14, Some(Onset::Known)),
            (0, Some(Onset::Known)),
            (21, Some(Onset::Known)),
            (22, None),
            (85, None),
            (86, Some(Onset::Range)),
            (121, Some(Onset::Range)),
            (122, None),
            (186, Some(Onset::Range)),
            (1921, Some(Onset::Range)),
            (1922, None),
            (1986, Some(Onset::Unknown)),
            (2015, None),
            (3000, Some(Onset::Asymptomatic)),
            (4000, Some(Onset::NoInformation)),
            (4015, None),
            (i32::MIN, None),
            (i32::MAX, None),
        ];
        for (value, range) in table {
            assert_eq!(Onset::of(value), range, "{value}");
        }
    }

    #[test]
    fn a_report_type_has_one_number_and_one_name() {
        for (number, known) in (0..).zip(ReportType::ALL) {
            assert_eq!((known as i32, ReportType::of(number)), (number, Some(known)));
            assert_eq!(ReportType::named(known.name()), Some(known));
        }
        assert_eq!((ReportType::of(-1), ReportType::of(6), ReportType::named("unknown")), (None, None, None));
    }

    #[test]
    fn no_key_shows_itself() {
        let key = DiagnosisKey { key_data: vec![7; 16].into(), origin: "DE".into(), ..Default::default() };
        assert_eq!(format!("{key:?}"), "DiagnosisKey(redacted, origin \"DE\")");
    }
}
