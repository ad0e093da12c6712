//! Compiles each `cuda/*.cu` with nvcc to a fatbin of its own, and lists them as Rust source for `cuda::real`.
//!
//! Into `OUT_DIR` go `NAME.fatbin`, `fatbins.rs` (the list, with the kernels of each) and `resources.tsv` (registers and
//! shared memory). A file is compiled again only where it, a header or the command changed. Register spills fail the build
//! unless `cuda/spills.txt` names the kernel.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

#[path = "ptxas.rs"]
mod ptxas;

/// Where the kernels are, from the package's root.
const SOURCES: &str = "cuda";
/// Kernels that may spill, one a line.
const SPILLS: &str = "cuda/spills.txt";
/// Compilers at a time: each may take a gigabyte.
const NUM_WORKERS: usize = 2;
/// The GPUs that get code of their own where `CUDA_COMPUTE_CAP` does not name one; others compile the PTX when they start.
const ARCHITECTURES: [&str; 3] = ["80", "89", "90"];
/// The oldest that the kernels run on: bf16 on tensor cores and asynchronous copies.
const OLDEST: u32 = 80;

/// Compiles the kernels; an error fails the build.
pub(crate) fn build() {
    println!("cargo::rerun-if-changed={SOURCES}");
    println!("cargo::rerun-if-changed=build");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Err(error) = compile_all() {
        for line in error.lines() {
            println!("cargo::error={line}");
        }
    }
}

/// One source file, compiled.
struct Object {
    /// Such as `norm.cu`.
    file: String,
    /// Where its fatbin is.
    fatbin: PathBuf,
    resources: Vec<ptxas::Resources>,
}

fn compile_all() -> Result<(), String> {
    let out_dir = variable("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?;
    let out_dir = PathBuf::from(out_dir);
    let sources = files(&["cu"])?;
    let objects = if sources.is_empty() {
        Vec::new()
    } else {
        let compiler = Compiler { nvcc: find_nvcc()?, arguments: arguments()?, out_dir };
        compile_sources(&compiler, &sources)?
    };
    check_names(&objects)?;
    check_spills(&objects)?;
    let out_dir = PathBuf::from(variable("OUT_DIR").unwrap_or_default());
    write(&out_dir.join("resources.tsv"), &resources_table(&objects))?;
    write(&out_dir.join("fatbins.rs"), &rust_source(&objects))
}

/// Compiles a few files at a time, and returns what became of them in their order.
fn compile_sources(compiler: &Compiler, sources: &[PathBuf]) -> Result<Vec<Object>, String> {
    let headers = compiler.headers_hash()?;
    let results = Mutex::new(BTreeMap::new());
    let queue = Mutex::new(sources.iter().enumerate());
    let work = || {
        loop {
            // Poisoning needs a panic, which fails the build anyway.
            let next = queue.lock().ok().and_then(|mut queue| queue.next());
            let Some((index, source)) = next else { return };
            let result = compiler.compile(source, headers);
            if let Ok(mut results) = results.lock() {
                results.insert(index, result);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..NUM_WORKERS {
            scope.spawn(work);
        }
    });
    let results = results.into_inner().map_err(|_| "a worker panicked".to_owned())?;
    let mut objects = Vec::new();
    let mut errors = Vec::new();
    for result in results.into_values() {
        match result {
            Ok(object) => objects.push(object),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(objects) } else { Err(errors.join("\n")) }
}

/// How files are compiled.
struct Compiler {
    nvcc: PathBuf,
    arguments: Vec<String>,
    out_dir: PathBuf,
}

impl Compiler {
    /// Returns a hash of all that every file depends on.
    fn headers_hash(&self) -> Result<u64, String> {
        let mut hasher = DefaultHasher::new();
        self.nvcc.hash(&mut hasher);
        self.arguments.hash(&mut hasher);
        for header in files(&["cuh", "h"])? {
            header.hash(&mut hasher);
            read(&header)?.hash(&mut hasher);
        }
        Ok(hasher.finish())
    }

    /// Compiles a file where it or what it depends on changed.
    fn compile(&self, source: &Path, headers: u64) -> Result<Object, String> {
        let file = name(source);
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        let fatbin = self.out_dir.join(format!("{stem}.fatbin"));
        let [key_file, log_file] =
            ["key", "log"].map(|kind| self.out_dir.join(format!("{stem}.{kind}")));
        let mut hasher = DefaultHasher::new();
        (headers, read(source)?).hash(&mut hasher);
        let key = format!("{:016x}", hasher.finish());
        let is_fresh = fatbin.exists() && read(&key_file).is_ok_and(|old| old == key);
        let log = if is_fresh && log_file.exists() {
            read(&log_file)?
        } else {
            let log = self.run(source, &fatbin)?;
            write(&log_file, &log)?;
            write(&key_file, &key)?;
            log
        };
        Ok(Object { file, fatbin, resources: ptxas::parse(&log) })
    }

    /// Runs nvcc and returns what it printed.
    fn run(&self, source: &Path, fatbin: &Path) -> Result<String, String> {
        let mut command = Command::new(&self.nvcc);
        command.args(&self.arguments).arg(source).arg("-o").arg(fatbin);
        let output = command
            .output()
            .map_err(|error| format!("cannot run {}: {error}", self.nvcc.display()))?;
        // ptxas speaks on the one or the other, by version.
        let log = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
        if output.status.success() {
            return Ok(log);
        }
        Err(format!("{} does not compile ({}): {command:?}\n{log}", name(source), output.status))
    }
}

/// Returns nvcc's arguments, but for the files.
fn arguments() -> Result<Vec<String>, String> {
    let fixed = "-fatbin -std=c++17 -O3 -lineinfo -Werror all-warnings -Xptxas -v";
    let mut arguments: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
    arguments.push(format!("-I{SOURCES}"));
    let one = variable("CUDA_COMPUTE_CAP");
    let architectures = match &one {
        Some(capability) => vec![capability.as_str()],
        None => ARCHITECTURES.to_vec(),
    };
    for capability in architectures {
        let number = architecture(capability)?;
        arguments.push(format!("-gencode=arch=compute_{number},code=sm_{number}"));
    }
    arguments.push(format!("-gencode=arch=compute_{OLDEST},code=compute_{OLDEST}"));
    Ok(arguments)
}

/// Returns what nvcc calls a compute capability such as `90` or `9.0`: `90a`, with the instructions of Hopper alone.
fn architecture(capability: &str) -> Result<String, String> {
    let digits = capability.replace('.', "");
    let digits = digits.trim_end_matches('a');
    let is_known = digits.parse::<u32>().is_ok_and(|number| (OLDEST..1000).contains(&number));
    if !is_known {
        return Err(format!(
            "CUDA_COMPUTE_CAP must be a compute capability of at least {OLDEST}, such as 80, 89 or 90, got {capability:?}"
        ));
    }
    Ok(if digits == "90" { "90a".to_owned() } else { digits.to_owned() })
}

/// Returns nvcc: `NVCC`, else that of `CUDA_HOME`, else of `CUDA_PATH`, else of `PATH`.
fn find_nvcc() -> Result<PathBuf, String> {
    if let Some(nvcc) = variable("NVCC") {
        let path = PathBuf::from(&nvcc);
        if path.components().count() > 1 && !path.is_file() {
            return Err(format!("NVCC is {nvcc:?}, which is no file: set it to a CUDA 13 nvcc"));
        }
        return Ok(path);
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
    let mut folders: Vec<PathBuf> = homes.map(|home| Path::new(&home).join("bin")).collect();
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut candidates = folders.iter().map(|folder| folder.join("nvcc"));
    candidates.find(|path| path.is_file()).ok_or_else(|| {
        "feature `cuda` needs nvcc of CUDA 13, which is in none of NVCC, CUDA_HOME/bin, CUDA_PATH/bin and PATH: \
         install the CUDA toolkit 13.0 (https://developer.nvidia.com/cuda-downloads) and a g++, and set CUDA_HOME, \
         or build without the feature"
            .to_owned()
    })
}

/// Refuses kernels that cannot be found by their name.
fn check_names(objects: &[Object]) -> Result<(), String> {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for object in objects {
        for kernel in kernels(object) {
            if kernel.starts_with("_Z") {
                return Err(format!(
                    "{}: the kernel {kernel} has a C++ name: begin its definition with KERNEL",
                    object.file
                ));
            }
            if let Some(other) = owners.insert(kernel, &object.file) {
                return Err(format!("{}: {other} has a kernel {kernel} too", object.file));
            }
        }
    }
    Ok(())
}

fn check_spills(objects: &[Object]) -> Result<(), String> {
    let allowed = fs::read_to_string(SPILLS).unwrap_or_default();
    let allowed: Vec<&str> =
        allowed.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).collect();
    let mut errors = String::new();
    for object in objects {
        for found in object.resources.iter().filter(|found| found.has_spills()) {
            if !allowed.contains(&found.kernel.as_str()) {
                let _ = writeln!(
                    errors,
                    "{}: the kernel {} spills registers on {} ({} bytes written, {} read): make it take fewer than its {}, \
                     or name it in {SPILLS}",
                    object.file,
                    found.kernel,
                    found.architecture,
                    found.spill_store_bytes,
                    found.spill_load_bytes,
                    found.registers
                );
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Returns the names of a file's kernels, each once.
fn kernels(object: &Object) -> Vec<&str> {
    let mut names: Vec<&str> = object.resources.iter().map(|found| found.kernel.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn resources_table(objects: &[Object]) -> String {
    let mut table = "file\tkernel\tarchitecture\tregisters\tstatic_shared_bytes\tstack_bytes\t\
                     spill_store_bytes\tspill_load_bytes\n"
        .to_owned();
    for object in objects {
        for found in &object.resources {
            let _ = writeln!(
                table,
                "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
                object.file,
                found.kernel,
                found.architecture,
                found.registers,
                found.shared_bytes,
                found.stack_bytes,
                found.spill_store_bytes,
                found.spill_load_bytes
            );
        }
    }
    table
}

/// Returns the list that `cuda::real` includes.
fn rust_source(objects: &[Object]) -> String {
    let mut source = "&[\n".to_owned();
    for object in objects {
        let _ = writeln!(
            source,
            "    Fatbin {{ file: {:?}, bytes: include_bytes!({:?}), kernels: &{:?} }},",
            object.file,
            object.fatbin.to_string_lossy(),
            kernels(object)
        );
    }
    source + "]\n"
}

/// Returns the sources' files of these kinds, sorted.
fn files(extensions: &[&str]) -> Result<Vec<PathBuf>, String> {
    let entries =
        fs::read_dir(SOURCES).map_err(|error| format!("cannot list {SOURCES}: {error}"))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("cannot list {SOURCES}: {error}"))?.path();
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        if extensions.contains(&extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns a variable of the environment; an empty one counts as absent.
fn variable(name: &str) -> Option<String> {
    env::var_os(name)?.into_string().ok().filter(|value| !value.is_empty())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
