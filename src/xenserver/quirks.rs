//! What is wrong in which release, by `host.software_version["xapi_build"]`. Each quirk is a function of
//! its own, with the releases that have it and where that is seen; commits and files are of
//! xapi-project/xen-api.

/// The numbers of a release that tells them.
type Build = [u32; 3];

/// What a host's release is known for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Quirks {
    /// `None` for one that is not known: it is taken for the newest.
    build: Option<Build>,
}

impl Quirks {
    /// By `24.19.2`, `1.249.41`, `25.6.0-5.1.xcpng8.3` or what else a host may say.
    pub(crate) fn of(xapi_build: &str) -> Self {
        Self { build: build(xapi_build) }
    }

    /// Whether the release is not known, which is worth a line for the log: it is taken for the newest.
    pub(crate) fn is_unknown(self) -> bool {
        self.build.is_none()
    }

    /// Sources of what was counted since the last reading (`iops_*`, `io_throughput_*`) are five times too
    /// high.
    ///
    /// 25.2.0 to 25.30: commits 73ca3cca49 and 422600239a.
    pub(crate) fn absolute_is_five_times_too_high(self) -> bool {
        self.is_within([25, 2, 0], [25, 31, 0])
    }

    /// Rows of a paused VM stand still, and the export labels them with current times. The first row
    /// after the pause has the mean since the last one before it, as all rows in between then have.
    ///
    /// Before 25.22.0: `xcp_rrdd.ml` left out the domains that were paused. Seen in the library's own
    /// answers of 1.249 and 24.19.
    pub(crate) fn rows_of_paused_stand_still(self) -> bool {
        self.is_before([25, 22, 0])
    }

    /// A source that has vanished (an unplugged NIC, the memory of a guest whose agent is gone, the
    /// memory of a paused VM) reads 0 and not NaN.
    ///
    /// All releases: `ds_unknown_sec` is set to a part of the step only, `rrd.ml:442`.
    #[allow(clippy::unused_self)]
    pub(crate) fn vanished_sources_read_zero(self) -> bool {
        true
    }

    /// Floats are printed with five digits: a counter of CPU seconds is good for nothing.
    ///
    /// 23.26 (about) to 25.2: commit 731ede746b has printed fifteen since 25.3.0, xcp-rrd before 1.10
    /// four after the point.
    pub(crate) fn floats_have_five_digits(self) -> bool {
        self.is_within([23, 26, 0], [25, 3, 0])
    }

    /// `<lastupdate>` of `/vm_rrd` is a float.
    ///
    /// 24.40.0 to 25.7: commit d3612d10fc.
    pub(crate) fn last_update_is_a_float(self) -> bool {
        self.is_within([24, 40, 0], [25, 8, 0])
    }

    /// The same with five digits, `1.7604e+09`: when exact counters were read is not known, so that rows
    /// cannot be compared with them.
    ///
    /// 24.40.0 to 25.2: commit d3612d10fc, until 731ede746b.
    pub(crate) fn last_update_has_too_few_digits(self) -> bool {
        self.last_update_is_a_float() && self.floats_have_five_digits()
    }

    /// Rows may be wrong by a factor of up to 2 where readings fall on multiples of 5 s.
    ///
    /// Since 24.40.0: growth is divided by the plugin's interval in place of the row's part of it,
    /// commit b3da1c9fcf, `rrd.ml:238,466`.
    pub(crate) fn rows_may_lie(self) -> bool {
        !self.is_before([24, 40, 0])
    }

    /// Sources that were added later have no limits: rates may be negative, and CPUs above 1.
    ///
    /// Before 25.11.0: CA-408126.
    pub(crate) fn late_sources_have_no_limits(self) -> bool {
        self.is_before([25, 11, 0])
    }

    /// What is known to be wrong with the release, a few words each, for who looks at a host.
    pub(crate) fn words(self) -> Vec<&'static str> {
        let all: [(bool, &str); 9] = [
            (self.is_unknown(), "its release is not known, and is taken for the newest"),
            (self.absolute_is_five_times_too_high(), "disk requests are told five times too high"),
            (self.rows_of_paused_stand_still(), "rows of a paused VM stand still"),
            (self.vanished_sources_read_zero(), "sources that have gone read 0"),
            (self.floats_have_five_digits(), "CPU counters have five digits"),
            (self.last_update_is_a_float(), "the time of counters is a float"),
            (self.rows_may_lie(), "rows may be wrong where sources are read on multiples of 5 s"),
            (
                self.last_update_has_too_few_digits(),
                "rows cannot be checked, as the time of counters has too few digits",
            ),
            (self.late_sources_have_no_limits(), "sources that came later have no limits"),
        ];
        all.into_iter().filter(|(is_so, _)| *is_so).map(|(_, words)| words).collect()
    }

    fn is_before(self, first_without: Build) -> bool {
        self.build.is_some_and(|build| build < first_without)
    }

    fn is_within(self, first: Build, first_without: Build) -> bool {
        self.build.is_some_and(|build| build >= first) && self.is_before(first_without)
    }
}

/// A vCPU's share of a CPU is no more than 1. Releases since 25.21.0 cap up to 5 % above and tell no
/// more; earlier ones tell more for sources that were added late (CA-408126), and rounding does.
pub(crate) fn capped_share(share: f64) -> f64 {
    if share > 1.0 && share.is_finite() { 1.0 } else { share }
}

/// The first three numbers, where there are two or more.
fn build(text: &str) -> Option<Build> {
    let text = text.trim().trim_start_matches(['v', 'V']);
    // "25.6.0-5.1.xcpng8.3" is a package of 25.6.0.
    let version = text.split(|c: char| !(c.is_ascii_digit() || c == '.')).next()?;
    let mut numbers = version.split('.').map(str::parse);
    let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some([major, minor, numbers.next().map_or(0, |patch| patch.unwrap_or(0))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(quirk: fn(Quirks) -> bool) -> impl Fn(&str) -> bool {
        move |build| quirk(Quirks::of(build))
    }

    #[test]
    fn builds_are_read_whatever_follows() {
        for (text, numbers) in [
            ("24.19.2", Some([24, 19, 2])),
            ("1.249.41", Some([1, 249, 41])),
            ("25.6.0-5.1.xcpng8.3", Some([25, 6, 0])),
            (" v26.17.0\n", Some([26, 17, 0])),
            ("25.6", Some([25, 6, 0])),
            ("25.6.x", Some([25, 6, 0])),
            ("25.6.0.1", Some([25, 6, 0])),
            ("25.39.0~rc1+dirty", Some([25, 39, 0])),
            ("", None),
            ("25", None),
            ("master", None),
            ("25..0", None),
            ("99999999999.1.2", None),
        ] {
            assert_eq!(build(text), numbers, "{text:?}");
            assert_eq!(Quirks::of(text).is_unknown(), numbers.is_none());
        }
    }

    #[test]
    fn requests_are_five_times_too_many_from_25_2_to_25_30() {
        let has = with(Quirks::absolute_is_five_times_too_high);
        assert!(has("25.2.0") && has("25.6.0-5.1.xcpng8.3") && has("25.30.7"));
        assert!(!has("1.249.41") && !has("25.1.9") && !has("25.31.0") && !has("26.17.0"));
    }

    #[test]
    fn rows_of_paused_vms_stand_still_before_25_22() {
        let has = with(Quirks::rows_of_paused_stand_still);
        assert!(has("1.249.41") && has("24.19.2") && has("25.21.9"));
        assert!(!has("25.22.0") && !has("26.17.0"));
    }

    #[test]
    fn vanished_sources_read_zero_in_all_releases() {
        let has = with(Quirks::vanished_sources_read_zero);
        assert!(has("1.249.41") && has("26.17.0") && has(""));
    }

    #[test]
    fn floats_have_five_digits_from_23_26_to_25_2() {
        let has = with(Quirks::floats_have_five_digits);
        assert!(has("23.26.0") && has("24.19.2") && has("25.2.9"));
        assert!(!has("1.249.41") && !has("23.25.0") && !has("25.3.0"));
    }

    #[test]
    fn the_last_update_is_a_float_from_24_40_to_25_7() {
        let has = with(Quirks::last_update_is_a_float);
        assert!(has("24.40.0") && has("25.6.0") && has("25.7.9"));
        assert!(!has("24.39.9") && !has("25.8.0"));
    }

    #[test]
    fn the_last_update_has_too_few_digits_from_24_40_to_25_2() {
        let has = with(Quirks::last_update_has_too_few_digits);
        assert!(has("24.40.0") && has("25.2.9"));
        assert!(!has("24.39.9") && !has("25.3.0") && !has("26.17.0") && !has(""));
    }

    #[test]
    fn rows_may_lie_since_24_40() {
        let has = with(Quirks::rows_may_lie);
        assert!(has("24.40.0") && has("26.17.0"));
        assert!(!has("1.249.41") && !has("24.39.9"));
    }

    #[test]
    fn late_sources_have_no_limits_before_25_11() {
        let has = with(Quirks::late_sources_have_no_limits);
        assert!(has("25.10.9") && !has("25.11.0"));
    }

    #[test]
    fn what_is_not_known_is_taken_for_the_newest() {
        let newest = |quirks: Quirks| {
            [
                quirks.absolute_is_five_times_too_high(),
                quirks.rows_of_paused_stand_still(),
                quirks.vanished_sources_read_zero(),
                quirks.floats_have_five_digits(),
                quirks.last_update_is_a_float(),
                quirks.last_update_has_too_few_digits(),
                quirks.rows_may_lie(),
                quirks.late_sources_have_no_limits(),
            ]
        };
        assert_eq!(newest(Quirks::of("who knows")), newest(Quirks::of("26.17.0")));
        assert_eq!(newest(Quirks::default()), newest(Quirks::of("26.17.0")));
    }

    #[test]
    fn a_share_is_no_more_than_one() {
        for (share, capped) in [(0.0, 0.0), (0.99, 0.99), (1.0, 1.0), (1.04, 1.0), (-0.5, -0.5)] {
            assert!((capped_share(share) - capped).abs() < f64::EPSILON);
        }
        assert!(capped_share(f64::NAN).is_nan() && capped_share(f64::INFINITY).is_infinite());
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in ".{0,40}") {
            let _ = Quirks::of(&text);
        }
    }
}
