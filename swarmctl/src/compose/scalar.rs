//! Single values as people write them: times, sizes, shares, permissions.

use std::time::Duration;

/// A time like `1m30s` or `1.5h` ([Go's form](https://pkg.go.dev/time#ParseDuration)).
pub(super) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total_ns) = (text, 0_f64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit_ns = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total_ns += number.parse::<f64>().ok()? * unit_ns;
        rest = after;
    }
    // What does not fit the engine's 64 bits is no time that anybody means.
    (!text.is_empty() && total_ns < i64::MAX as f64).then(|| Duration::from_nanos(total_ns.round() as u64))
}

/// A size like `50M` or `1.5gb`, in binary units as Docker takes them.
pub(super) fn bytes(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit.trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 1_f64,
        "k" => 1024.0,
        "m" => 1_048_576.0,
        "g" => 1_073_741_824.0,
        "t" => 1_099_511_627_776.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * unit;
    (bytes < i64::MAX as f64).then_some(bytes as i64)
}

/// A number of cores like `0.5`, in billionths.
pub(super) fn nano_cpus(text: &str) -> Option<i64> {
    let cores: f64 = text.trim().parse().ok()?;
    (0.0..1e6).contains(&cores).then(|| (cores * 1e9).round() as i64)
}

/// A share from 0 to 1, in millionths.
pub(super) fn ppm(text: &str) -> Option<u32> {
    let share: f64 = text.trim().parse().ok()?;
    (0.0..=1.0).contains(&share).then(|| (share * 1e6).round() as u32)
}

/// Permissions: octal if they begin with 0, as in `0440`.
pub(super) fn mode(text: &str) -> Option<u32> {
    let octal = text.strip_prefix("0o").or_else(|| text.strip_prefix('0'));
    let mode = match octal {
        Some("") => 0,
        Some(digits) => u32::from_str_radix(digits, 8).ok()?,
        None => text.parse().ok()?,
    };
    (mode <= 0o7777).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_gos() {
        for (text, ms) in
            [("0", 0), ("1m30s", 90_000), ("1.5h", 5_400_000), ("250ms", 250), ("1h2m3s", 3_723_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "1x", "s", "1..5s", "-1s", "1m 30s", "999999999999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        for (text, size) in
            [("7", 7), ("50M", 50 << 20), ("1.5g", 3 << 29), ("64kb", 64 << 10), ("2 GiB", 2 << 30)]
        {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for text in ["", "x", "-5m", "5q", "1e30", "99999999999999t"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn shares_and_permissions() {
        assert_eq!((nano_cpus("0.5"), nano_cpus("-1"), nano_cpus("nan")), (Some(500_000_000), None, None));
        assert_eq!((ppm("0.3"), ppm("1.1")), (Some(300_000), None));
        assert_eq!(
            (mode("0440"), mode("0o440"), mode("288"), mode("0999")),
            (Some(288), Some(288), Some(288), None)
        );
    }
}
