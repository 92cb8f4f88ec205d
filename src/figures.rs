//! How figures are written, wherever people read them: one way each.

/// `2170474` as `2,170,474`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// How many times less `after` is than `before`, as `4.0x`. `None` if they are equal or one of them is 0.
///
/// One decimal; two where one would say `1.0x`.
pub fn ratio(before: f64, after: f64) -> Option<String> {
    if before == after || before <= 0.0 || after <= 0.0 {
        return None;
    }
    let one = format!("{:.1}x", before / after);
    Some(if one == "1.0x" { format!("{:.2}x", before / after) } else { one })
}

/// The difference of two shares in points of a percent, as `−0.67 points`.
pub fn points(before: f64, after: f64) -> String {
    let points = (after - before) * 100.0;
    match format!("{:.2}", points.abs()) {
        none if none == "0.00" => "0.00 points".into(),
        some if points < 0.0 => format!("−{some} points"),
        some => format!("+{some} points"),
    }
}

/// A share as `99.53 %`.
pub fn percent(share: f64) -> String {
    // Shares are quotients of counts; 99.525 % must not be rounded down because a double falls short of it.
    format!("{:.2} %", share * 100.0 + 1e-9)
}

/// A share of a whole, for words: `12 %`, `<1 %`, `>99 %`.
pub fn about(share: f64) -> String {
    match (share * 100.0).round() {
        _ if share > 0.0 && share < 0.01 => "<1 %".into(),
        _ if share < 1.0 && share > 0.99 => ">99 %".into(),
        percent => format!("{percent:.0} %"),
    }
}

/// Factors of decimal and binary units; `B` may follow each of them.
const UNITS: &[(&str, f64)] = &[
    ("ki", 1024.0),
    ("mi", 1048576.0),
    ("gi", 1073741824.0),
    ("k", 1e3),
    ("m", 1e6),
    ("g", 1e9),
    ("t", 1e12),
    ("", 1.0),
];

/// A number with or without a unit, as people write it: `250kB`, `1.5 MiB`, `5M`.
pub fn number(text: &str) -> Option<f64> {
    let lower = text.trim().to_lowercase();
    let plain = lower.strip_suffix('b').unwrap_or(&lower);
    let number = |digits: &str| digits.trim().parse::<f64>().ok().filter(|n| n.is_finite());
    UNITS.iter().find_map(|(unit, factor)| Some(number(plain.strip_suffix(unit)?)? * factor))
}

/// Bytes in the units of files: `452.1 kB`, in powers of 1000.
pub fn bytes(n: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.iter().find(|u| n as f64 >= u.1) {
        Some((unit, size)) => format!("{:.1} {unit}", n as f64 / size),
        None => format!("{n} B"),
    }
}

/// A count with its noun, which takes an `s` for more than one.
pub fn count(n: usize, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n as u64), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_one_way() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let ratios = [(4.0, 1.0), (463.0, 10.0), (1.0, 2.0), (104.0, 100.0)].map(|(a, b)| ratio(a, b).unwrap());
        assert_eq!(ratios, ["4.0x", "46.3x", "0.5x", "1.04x"]);
        assert_eq!((ratio(3.0, 3.0), ratio(0.0, 3.0), ratio(3.0, 0.0)), (None, None, None));
        let drops = [(0.9012, 0.8945), (0.5, 0.52), (0.5, 0.50001)].map(|(a, b)| points(a, b));
        assert_eq!(drops, ["−0.67 points", "+2.00 points", "0.00 points"]);
        assert_eq!([12, 12_345, 12_345_678].map(bytes), ["12 B", "12.3 kB", "12.3 MB"]);
        assert_eq!([0.0, 0.004, 0.126, 0.999, 1.0].map(about), ["0 %", "<1 %", "13 %", ">99 %", "100 %"]);
        assert_eq!((count(1, "site"), count(1200, "site")), ("1 site".into(), "1,200 sites".into()));
    }
}
