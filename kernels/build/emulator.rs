//! Compiles `cuda/*.cu` with the host's C++ compiler, over `emulator/`, with and without planted faults.

#[path = "faults.rs"]
mod faults;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::exit,
    thread,
};

/// What kernels are checked for while they run; `emulator/sanitizer.cpp` answers.
const CHECKS: [&str; 2] =
    ["-fsanitize=alignment,bounds,shift,integer-divide-by-zero", "-fno-sanitize-recover=all"];

/// For all sources: one TLS access is one instruction, signal handlers may read it, and `siglongjmp` may leave a fiber.
const FLAGS: [&str; 3] = ["-ftls-model=initial-exec", "-U_FORTIFY_SOURCE", "-fno-math-errno"];

pub(crate) fn build() {
    #[expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts so")]
    let out = env::var("OUT_DIR");
    let out = PathBuf::from(out.unwrap_or_else(|_| fail("cargo sets OUT_DIR")));
    for folder in ["cuda", "emulator", "build"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    let mut kernels = with_extension("cuda", "cu");
    kernels.push(PathBuf::from("emulator/selftest.cu"));
    let mutated = if cfg!(feature = "cuda-faults") {
        faults::write(&out, &kernels, &with_extension("cuda", "cuh"))
    } else {
        Vec::new()
    };

    let mut runtime = compiler(&[]);
    // Its tight loops, tensor cores' above all, gain a factor of 3.
    runtime.opt_level(3);
    let checked = compiler(&CHECKS);
    let mut jobs: Vec<(cc::Build, PathBuf)> = Vec::new();
    jobs.extend(with_extension("emulator", "cpp").into_iter().map(|file| (runtime.clone(), file)));
    jobs.extend(kernels.into_iter().map(|file| (checked.clone(), file)));
    // A copy's own folder comes first: it may hold a mutated header.
    jobs.extend(mutated.into_iter().map(|file| {
        let mut compiler = cc_of(&CHECKS);
        // A fault may leave a variable unused.
        compiler.warnings_into_errors(false).flag("-w");
        compiler.include(file.parent().unwrap_or(&out));
        (with_includes(compiler), file)
    }));
    let objects = compile(&jobs);
    runtime.clone().objects(objects).cargo_metadata(false).compile("lacuna_emulator");

    println!("cargo::rustc-link-search=native={}", out.display());
    // Whole: kernels are found through objects that register themselves, to which nothing refers by name.
    println!("cargo::rustc-link-lib=static:+whole-archive=lacuna_emulator");
    println!("cargo::rustc-link-lib=stdc++");
}

/// Returns the object files, in the order of the jobs. Every core compiles.
fn compile(jobs: &[(cc::Build, PathBuf)]) -> Vec<PathBuf> {
    let num_threads = thread::available_parallelism().map_or(1, usize::from);
    let mut objects: Vec<Vec<PathBuf>> = vec![Vec::new(); jobs.len()];
    thread::scope(|scope| {
        let workers: Vec<_> = (0..num_threads)
            .map(|first| {
                scope.spawn(move || {
                    let mine = jobs.iter().enumerate().skip(first).step_by(num_threads);
                    mine.map(|(i, (build, file))| (i, compile_one(build, file))).collect::<Vec<_>>()
                })
            })
            .collect();
        for worker in workers {
            let compiled = worker.join().unwrap_or_else(|_| fail("a thread of the build panicked"));
            for (i, files) in compiled {
                objects[i] = files;
            }
        }
    });
    objects.into_iter().flatten().collect()
}

fn compile_one(build: &cc::Build, file: &Path) -> Vec<PathBuf> {
    build.clone().file(file).try_compile_intermediates().unwrap_or_else(|error| {
        fail(&format!(
            "cannot compile {}: {error}\nthe feature `cuda-emulator` needs g++ with C++17 (Debian: apt install g++; or set CXX)",
            file.display()
        ))
    })
}

fn compiler(extra: &[&str]) -> cc::Build {
    with_includes(cc_of(extra))
}

fn cc_of(extra: &[&str]) -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).debug(false).cargo_metadata(false);
    build.warnings(true).extra_warnings(true).warnings_into_errors(true);
    // A vector argument's ABI differs with AVX; ours never leave a file.
    build.flag("-Wno-psabi");
    for flag in FLAGS.iter().chain(extra) {
        build.flag(flag);
    }
    // `.cu` means nothing to g++.
    build.flag("-xc++");
    build
}

fn with_includes(mut build: cc::Build) -> cc::Build {
    build.include("cuda").include("emulator");
    build
}

/// Returns a folder's files of that extension, sorted.
fn with_extension(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap_or_else(|error| fail(&format!("cannot read {folder}: {error}")));
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// Ends the build with a message instead of a backtrace.
fn fail(message: &str) -> ! {
    println!("cargo::error={}", message.replace('\n', "; "));
    #[expect(clippy::disallowed_methods, reason = "a build script has nothing to drain")]
    exit(1)
}
