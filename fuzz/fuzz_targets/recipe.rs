//! Recipes: read, planned, printed; what is printed is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tutee::recipe::{Recipe, Step};
use tutee_fuzz::{catching, judge};

fuzz_target!(|data: &[u8]| {
    catching();
    let Ok(text) = std::str::from_utf8(data) else { return };
    // As on the command line.
    judge(Step::parse(text.lines().next().unwrap_or_default()));
    let Some(recipe) = judge(Recipe::parse(text, "recipe.toml")) else { return };
    judge(recipe.plan());
    let Some(printed) = judge(recipe.to_toml()) else { return };
    let again = Recipe::parse(&printed, "printed").unwrap_or_else(|e| panic!("{e}\n{printed}"));
    assert_eq!(again.to_toml().unwrap(), printed);
});
