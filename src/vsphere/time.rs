//! Times as vSphere writes them: `xsd:dateTime`.

const DAY: i64 = 86_400;

/// Whole seconds since the epoch, of a time such as `2027-01-15T07:59:40.5Z` or
/// `2027-01-15T08:59:40+01:00`; one without a zone is UTC.
pub(super) fn seconds(text: &str) -> Option<i64> {
    let (date, time) = text.trim().split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let zone = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at_checked(zone)?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let is_time = hour <= 23 && minute <= 59 && second <= 60;
    if !is_time || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let midnight = days(year, month, day)? * DAY;
    Some(midnight + hour * 3600 + minute * 60 + second - offset(zone)?)
}

/// Seconds east of UTC.
fn offset(zone: &str) -> Option<i64> {
    let (sign, east) = match zone.as_bytes().first() {
        None => return Some(0),
        Some(b'Z') => return (zone.len() == 1).then_some(0),
        Some(b'+') => (1, zone.get(1..)?),
        Some(_) => (-1, zone.get(1..)?),
    };
    let [hours, minutes] = numbers(east, ':', [2, 2])?;
    (hours <= 14 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}

/// Numbers of so many digits.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(between);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits)?;
        for byte in part.bytes() {
            *number = *number * 10 + i64::from(byte.is_ascii_digit().then(|| byte - b'0')?);
        }
    }
    parts.next().is_none().then_some(numbers)
}

/// Days since 1970-01-01 in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let before = BEFORE.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    if year == 0 || !(1..=length).contains(&day) {
        return None;
    }
    let years = year - 1;
    let leap_days = years / 4 - years / 100 + years / 400 + i64::from(is_leap && month > 2);
    // 1970-01-01 is day 719,162 of the calendar.
    Some(years * 365 + leap_days + before + day - 1 - 719_162)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_is_seconds_since_the_epoch() {
        // By `date -u -d … +%s`.
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2027-01-15T07:59:40Z", 1_800_000_000 - 20),
            ("2027-01-15T07:59:40", 1_800_000_000 - 20),
            ("2026-11-26T00:36:58.146208694Z", 1_795_653_418),
            ("2027-01-15T08:59:40.999+01:00", 1_800_000_000 - 20),
            ("2027-01-15T02:29:40-05:30", 1_800_000_000 - 20),
            ("2024-02-29T12:00:00Z", 1_709_208_000),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("1969-12-31T23:59:59Z", -1),
            ("2016-12-31T23:59:60Z", 1_483_228_800),
            ("0001-01-01T00:00:00Z", -62_135_596_800),
            (" 1970-01-01T00:00:00Z\n", 0),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "T",
            "2027-01-15",
            "2027-01-15 07:59:40Z",
            "2027-13-15T07:59:40Z",
            "2027-02-29T07:59:40Z",
            "1900-02-29T00:00:00Z",
            "2027-00-15T07:59:40Z",
            "2027-01-00T07:59:40Z",
            "2027-01-15T24:59:40Z",
            "2027-01-15T07:60:40Z",
            "2027-01-15T07:59:61Z",
            "2027-01-15T07:59:40.Z",
            "2027-01-15T07:59:40.5xZ",
            "2027-01-15T07:59:40Zx",
            "2027-01-15T07:59:40+1",
            "2027-01-15T07:59:40+15:00",
            "-2027-01-15T07:59:40Z",
            "+027-01-15T07:59:40Z",
            "2027-1-15T07:59:40Z",
            "2027-01-15T07:59:40+ü",
            "20ü7-01-15T07:59:40Z",
            "0000-01-01T00:00:00Z",
            "2027-01-15T7:059:40Z",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn days_follow_each_other(year in 1_i64..=9998, month in 1_i64..=12, day in 1_i64..=31) {
            let Some(number) = days(year, month, day) else { return Ok(()) };
            let next = [(year, month, day + 1), (year, month + 1, 1), (year + 1, 1, 1)];
            let next = next.into_iter().find_map(|(year, month, day)| days(year, month, day));
            prop_assert_eq!(next, Some(number + 1));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9TZ:.+-]{0,30}|.{0,20}") {
            let _ = seconds(&text);
        }
    }
}
