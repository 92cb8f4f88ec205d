//! The classes on which the student is worse, with samples of them.

use super::Page;
use crate::check::WorseClass;
use crate::figures::grouped;
use crate::plain;
use std::fmt::Write;

/// A section, if there are such classes.
pub(super) fn section(page: &mut Page, classes: &[WorseClass]) {
    if classes.is_empty() {
        return;
    }
    page.put("<section>\n<h2>Classes that lose most</h2>\n");
    let name = |class: usize| match classes.iter().find(|c| c.class == class).and_then(|c| c.name.as_ref()) {
        Some(name) => format!("{class} ({name})"),
        None => class.to_string(),
    };
    let row = |c: &WorseClass| {
        let taken = |&(said, t, s): &(usize, usize, usize)| format!("{} ({t} → {s})", name(said));
        [
            format!("class {}", name(c.class)),
            grouped(c.samples as u64),
            grouped(c.teacher as u64),
            grouped(c.student as u64),
            c.taken_for.iter().take(3).map(taken).collect::<Vec<_>>().join(", "),
        ]
    };
    let rows: Vec<_> = classes.iter().map(row).collect();
    page.rows(&["", "samples", "teacher right", "student right", "more often taken for"], &rows);
    for class in classes.iter().filter(|c| !c.lost.is_empty()) {
        let _ = write!(page.0, "<div class=\"pictures\"><span>class {}</span>", plain::html(&name(class.class)));
        for picture in &class.lost {
            let said = picture.said.map_or("nothing".into(), name);
            let _ = write!(
                page.0,
                "<figure><img alt=\"sample {}\" src=\"data:image/png;base64,{}\"><figcaption>{}</figcaption></figure>",
                picture.sample,
                base64(&picture.png),
                plain::html(&format!("taken for {said}"))
            );
        }
        page.put("</div>\n");
    }
    page.put("</section>\n");
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let place = bits >> (18 - 6 * digit) & 63;
            out.push(if digit > three.len() { '=' } else { char::from(DIGITS[place as usize]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_of_the_standard() {
        for (text, code) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(super::base64(text.as_bytes()), code);
        }
    }
}
