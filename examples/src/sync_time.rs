//! Moments as people write and read them, in UTC: `2026-11-23 14:05`, or how long ago: `2h`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::settings;

const SECOND_NS: i64 = 1_000_000_000;
const DAY_S: i64 = 86_400;

/// Now, in nanoseconds since 1970.
pub fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Reads `2026-11-23`, `2026-11-23 14:05[:09]` with a blank or a `T` and perhaps a `Z`, or `2h` for two hours before
/// `now_ns`. Without a time of day it is the end of that day. Nanoseconds since 1970.
pub fn parse(text: &str, now_ns: i64) -> Result<i64, String> {
    if let Ok(ago) = settings::duration(text) {
        return Ok(now_ns.saturating_sub(i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX)));
    }
    let wrong = || {
        format!(
            "`{text}` is no moment: write 2026-11-23, \"2026-11-23 14:05\" (UTC), or 2h for two hours ago"
        )
    };
    let plain = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = plain.split_once(['T', ' ']).unwrap_or((plain, "23:59:59"));
    let date = fields(date, '-').filter(|date| date.len() == 3).ok_or_else(wrong)?;
    let time = fields(time, ':').filter(|time| matches!(time.len(), 2 | 3)).ok_or_else(wrong)?;
    let (year, month, day) = (date[0], date[1], date[2]);
    let (hour, minute, second) = (time[0], time[1], time.get(2).copied().unwrap_or(0));
    let fits = (1970..2262).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let days = days_of(year, month, day);
    // The 31st of a month with 30 days would be another one.
    if !fits || date_of(days) != (year, month, day) {
        return Err(wrong());
    }
    Ok((days * DAY_S + hour * 3600 + minute * 60 + second) * SECOND_NS)
}

/// A moment as `2026-11-23 14:05:09`.
pub fn shown(at_ns: i64) -> String {
    let seconds = at_ns.div_euclid(SECOND_NS);
    let ((year, month, day), second) = (date_of(seconds.div_euclid(DAY_S)), seconds.rem_euclid(DAY_S));
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// A time to wait, for a person.
pub fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

fn fields(text: &str, separator: char) -> Option<Vec<i64>> {
    let number = |field: &str| {
        let plain = !field.is_empty() && field.len() <= 4 && field.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| field.parse().ok()).flatten()
    };
    text.split(separator).map(number).collect()
}

/// After Howard Hinnant's `days_from_civil`.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// After Howard Hinnant's `civil_from_days`.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let index = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * index + 2) / 5 + 1, if index < 10 { index + 3 } else { index - 9 });
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_are_shown() {
        assert_eq!(parse("1970-01-01 00:00", 0), Ok(0));
        assert_eq!(parse("2026-11-23T14:05:09Z", 0), Ok(1_795_442_709 * SECOND_NS));
        for day in (0..100_000).step_by(17) {
            let text = shown((day * DAY_S + 12_345) * SECOND_NS);
            assert_eq!(parse(&text, 0), Ok((day * DAY_S + 12_345) * SECOND_NS), "{text}");
        }
        assert_eq!(parse("2024-02-29", 0).map(shown), Ok("2024-02-29 23:59:59".to_owned()));
        assert_eq!(parse("2h", 10_000 * SECOND_NS), Ok(2800 * SECOND_NS));
        for wrong in
            ["", "yesterday", "2025-02-29", "2026-13-01", "2026-11-23 24:00", "26-11-23", "2026-11-23 1"]
        {
            assert!(parse(wrong, 0).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_span_has_one_unit() {
        let shown = [59, 119, 120, 7199, 7200, 172_800].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(shown, ["59 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
