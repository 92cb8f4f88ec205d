//! `tutee man FOLDER`

use crate::error::{Result, io};
use crate::files::Atomic;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Write manual pages, one for each command
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tutee man /usr/local/share/man/man1")]
pub struct Args {
    /// The folder that gets tutee.1, tutee-compress.1 and so on; it is made if it is not there
    folder: PathBuf,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        std::fs::create_dir_all(&self.folder).map_err(|e| io("make the folder", &self.folder, &e))?;
        let mut command = super::Cli::command();
        command.build();
        let mut pages = 0;
        write(&self.folder, &command, "tutee", &mut pages)?;
        super::print(&format!("{pages} pages in {}\n", self.folder.display()))
    }
}

/// Writes the page of a command, and those of the commands in it.
fn write(folder: &std::path::Path, command: &Command, name: &str, pages: &mut usize) -> Result<()> {
    let mut file = Atomic::create(&folder.join(format!("{name}.1")))?;
    let mut page = Vec::new();
    let version = concat!("tutee ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name.to_uppercase()).source(version).manual("tutee");
    man.render(&mut page).map_err(|e| io("write", folder, &e))?;
    // Examples are lines to be copied.
    let page = String::from_utf8_lossy(&page).replace(".SH EXTRA\n", ".SH EXTRA\n.nf\n");
    file.write(|to| to.write_all(page.as_bytes()))?;
    file.commit()?;
    *pages += 1;
    let inside = command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set());
    for part in inside {
        write(folder, part, &format!("{name}-{}", part.get_name()), pages)?;
    }
    Ok(())
}
