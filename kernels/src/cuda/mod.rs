//! GPUs: our kernels over a small device interface, with a real and an emulated implementation.
//!
//! Residual stream, queries, keys, values and logits are computed in f32; what a product reads (an operand) is rounded to
//! bf16, as tensor cores take it; keys and values are cached in f16. Steps of decodes are padded to a few sizes and
//! captured as graphs. The kernels are in `kernels/cuda/`, and each says what it costs.

mod attention;
mod codes;
pub mod device;
#[cfg(feature = "cuda-emulator")]
pub mod emulated;
mod graphs;
mod grouped;
mod lora;
mod matrix;
mod memory;
mod mixture;
mod norm;
mod products;
#[cfg(feature = "cuda")]
pub mod real;
mod rows;
mod sample;
mod step;

use std::cell::Cell;
use std::fmt::Debug;
use std::sync::Arc;

pub use crate::cuda::attention::attention_bytes;
pub use crate::cuda::lora::{CudaLora, CudaPairs, pairs_bytes};
pub use crate::cuda::matrix::{CudaMatrix, matrix_bytes, widened_bytes};
pub use crate::cuda::memory::{CudaBuffer, CudaLayerCache, CudaRopeTable, CudaVector};
pub use crate::cuda::mixture::CudaMixture;
pub(crate) use crate::cuda::products::STREAMED_ROWS_MAX;
pub use crate::cuda::step::{CudaStep, graph_steps};

use crate::activation::Activation;
use crate::backend::{
    Backend, BackendError, MatrixData, OwnMemory, StepRows, Vocabulary, WeightFormat,
};
use crate::checks::Check;
use crate::cuda::attention::SplitRoom;
use crate::cuda::device::{Argument, Device, DeviceMemory};
use crate::cuda::graphs::{Captured, Graphs};
use crate::cuda::memory::Elements;
use crate::cuda::products::{GateRoom, Linear, Then, WidenRoom};
use crate::cuda::rows::launch_rows;
use crate::cuda::sample::SampleRoom;
use crate::cuda::step::{Demand, StepArray};
use crate::group::Member;
use crate::metadata::{AttentionShape, SampleRow, StepInput};
use crate::parts::{FeedForward, HeadNorms, Norm};
use crate::rope_table::RopeTable;

/// Whether steps of decodes are captured and replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphMode {
    /// Each launch is made anew.
    Eager,
    /// Launches of a step are captured once, and replayed.
    Captured,
}

/// A GPU as a backend.
#[derive(Debug)]
pub struct CudaBackend<D: Device> {
    device: D,
    graphs: Graphs<D::Graph>,
    split_room: Option<SplitRoom<D::Memory>>,
    gate_room: GateRoom<D::Memory>,
    widened: WidenRoom<D::Memory>,
    sample_room: Option<SampleRoom<D::Memory>>,
    /// The layers' attention.
    shape: Cell<Option<AttentionShape>>,
    /// Sequences, and blocks of a sequence, of the largest step.
    step_room: Cell<(usize, usize)>,
    /// One counter.
    num_broken: D::Memory,
    /// Whether other ranks compute the same steps.
    has_joined: bool,
}

impl<D: Device> CudaBackend<D> {
    /// Makes a backend of a device.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub fn new(device: D, mode: GraphMode) -> Result<Self, BackendError> {
        let num_broken = device.allocate(size_of::<u32>())?;
        let graphs = Graphs::new(mode == GraphMode::Captured);
        Ok(Self {
            device,
            graphs,
            split_room: None,
            gate_room: GateRoom::default(),
            widened: WidenRoom::default(),
            sample_room: None,
            shape: Cell::new(None),
            step_room: Cell::new((0, 0)),
            num_broken,
            has_joined: false,
        })
    }

    /// Returns the device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Returns the number of graphs that were captured and are held.
    pub fn num_graphs(&self) -> usize {
        self.graphs.len()
    }

    /// Forgets all graphs, for memory that they name was given back; waits for one that may be running.
    fn forget_graphs(&mut self) -> Result<(), BackendError> {
        if self.graphs.len() > 0 {
            self.device.download(&self.num_broken, 0, &mut [0; size_of::<u32>()])?;
            self.graphs.clear();
        }
        Ok(())
    }

    /// Goes on without graphs, for `error`; not in a group, where the others' padded steps would have other sums.
    fn give_up_graphs(&mut self, error: BackendError) -> Result<(), BackendError> {
        if self.has_joined {
            return Err(error);
        }
        self.graphs.disable();
        Ok(())
    }
}

impl<D: Device> Backend for CudaBackend<D> {
    type Buffer = CudaBuffer<D::Memory>;
    type Matrix = CudaMatrix<D::Memory>;
    type Vector = CudaVector<D::Memory>;
    type LayerCache = CudaLayerCache<D::Memory>;
    type RopeTable = CudaRopeTable<D::Memory>;
    type Mixture = CudaMixture<D::Memory>;
    type Lora = CudaLora<D::Memory>;
    type Step = CudaStep<D::Memory>;

    const OPERAND_BYTES: usize = size_of::<half::bf16>();

    fn name(&self) -> String {
        self.device.facts().name.clone()
    }

    fn own_memory(&self) -> Result<Option<OwnMemory>, BackendError> {
        let total_bytes = self.device.facts().total_bytes;
        Ok(Some(OwnMemory { free_bytes: self.device.free_bytes()?, total_bytes }))
    }

    fn kv_bytes_per_block(shape: &AttentionShape) -> usize {
        2 * shape.num_kv_heads * shape.block_size * shape.head_dim * shape.kv_dtype.num_bytes()
    }

    fn matrix_bytes(parts: &[MatrixData<'_>], format: WeightFormat) -> u64 {
        matrix_bytes(parts, format)
    }

    fn join(&mut self, member: &Arc<Member>) -> Result<(), BackendError> {
        self.has_joined = true;
        self.device.join(member)
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, BackendError> {
        CudaBuffer::new(&self.device, len, Elements::F32)
    }

    fn operand(&self, len: usize) -> Result<Self::Buffer, BackendError> {
        CudaBuffer::new(&self.device, len, Elements::Bf16)
    }

    fn matrix(
        &mut self,
        parts: &[MatrixData<'_>],
        format: WeightFormat,
    ) -> Result<Self::Matrix, BackendError> {
        CudaMatrix::new(&self.device, parts, format)
    }

    fn is_finite(&mut self, matrix: &Self::Matrix) -> Result<bool, BackendError> {
        Ok(matrix.count_broken(&mut self.device, &mut self.num_broken)? == 0)
    }

    fn reserve(&mut self, _max_num_rows: usize) -> Result<(), BackendError> {
        // Room for gated products, and for weights that are widened, is taken by the first step that needs it: the largest is run before any is served.
        if let (Some(shape), (num_seqs, table_width)) = (self.shape.get(), self.step_room.get()) {
            let num_positions = table_width * shape.block_size;
            let room = SplitRoom::of_largest(&self.device, &shape, num_seqs, num_positions)?;
            self.split_room = Some(room);
            self.forget_graphs()?;
        }
        Ok(())
    }

    fn vector(&self, values: &[f32]) -> Result<Self::Vector, BackendError> {
        CudaVector::new(&self.device, values)
    }

    fn layer_cache(
        &self,
        shape: &AttentionShape,
        num_blocks: usize,
    ) -> Result<Self::LayerCache, BackendError> {
        attention::check_shape(Check("layer_cache"), shape)?;
        let num_bytes = num_blocks.saturating_mul(Self::kv_bytes_per_block(shape));
        let memory = self.device.allocate(num_bytes)?;
        self.shape.set(Some(*shape));
        Ok(CudaLayerCache { memory, shape: *shape, num_blocks })
    }

    fn rope_table(
        &self,
        inv_freq: &[f32],
        num_positions: usize,
        amplitude: f32,
    ) -> Result<Self::RopeTable, BackendError> {
        let table = RopeTable::new(inv_freq, num_positions, amplitude, "the host")?;
        CudaRopeTable::new(&self.device, &table)
    }

    fn step(
        &self,
        max_num_tokens: usize,
        max_num_seqs: usize,
        max_blocks_per_seq: usize,
    ) -> Result<Self::Step, BackendError> {
        let step = CudaStep::new(&self.device, max_num_tokens, max_num_seqs, max_blocks_per_seq)?;
        self.step_room.set((max_num_seqs, step.max_table_width()));
        Ok(step)
    }

    fn load_step(
        &mut self,
        input: &StepInput<'_>,
        step: &mut Self::Step,
    ) -> Result<(), BackendError> {
        step.load(&self.device, input, self.graphs.is_enabled())
    }

    fn rows(step: &Self::Step) -> StepRows {
        step.rows()
    }

    fn run(
        &mut self,
        step: &Self::Step,
        body: &mut dyn FnMut(&mut Self) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let Some(bucket) = step.bucket() else { return body(self) };
        if let Some(captured) = self.graphs.take(&bucket) {
            for demand in &captured.demands {
                step.require(Check("run"), *demand)?;
            }
            self.device.replay(&captured.graph)?;
            self.graphs.put(bucket, captured);
            return Ok(());
        }
        // Computed once as it is, which takes what memory it needs; then once more without computing, to be kept.
        body(self)?;
        if !self.graphs.has_room() {
            return Ok(());
        }
        if let Err(error) = self.device.begin_capture() {
            return self.give_up_graphs(error);
        }
        let recorded = body(self);
        // Ended in any case: a device that goes on recording would run nothing.
        let graph = self.device.end_capture();
        match recorded.and(graph) {
            Ok(graph) => self.graphs.put(bucket, Captured { graph, demands: step.satisfied() }),
            // The step is computed. A device that cannot keep it goes on without graphs; one that failed says so next.
            Err(error) => return self.give_up_graphs(error),
        }
        Ok(())
    }

    fn embed(
        &mut self,
        step: &Self::Step,
        table: &Self::Matrix,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        let check = Check("embed");
        step.require(check, Demand::Ids(table.rows))?;
        let num_tokens = step.layout().num_tokens;
        check.holds("out", out.len(), num_tokens, table.cols)?;
        let elements = match out.elements() {
            Elements::F32 => "float",
            Elements::Bf16 => "bf16",
        };
        let kernel = format!("embed_{}_{elements}", table.weights.name());
        let arguments = [
            out.address(),
            table.data(),
            table.factors(),
            step.array(StepArray::TokenIds),
            Argument::Pointer(step.sampled().address()),
            Argument::U32(table.cols as u32),
        ];
        launch_rows(&mut self.device, &kernel, (num_tokens, table.cols), &arguments)
    }

    fn scale(
        &mut self,
        num_rows: usize,
        width: usize,
        factor: f32,
        x: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        norm::scale(&mut self.device, (num_rows, width), factor, x)
    }

    fn norm(
        &mut self,
        num_rows: usize,
        x: &Self::Buffer,
        norm: Norm<'_, Self::Vector>,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        norm::norm(&mut self.device, num_rows, x, &norm, out)
    }

    fn head_norm(
        &mut self,
        num_rows: usize,
        shape: &AttentionShape,
        norms: HeadNorms<'_, Self::Vector>,
        qkv: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        norm::head_norm(&mut self.device, num_rows, shape, &norms, qkv)
    }

    fn linear(
        &mut self,
        num_rows: usize,
        x: &Self::Buffer,
        matrix: &Self::Matrix,
        bias: Option<&Self::Vector>,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        let linear = Linear { check: Check("linear"), num_rows, x, matrix, widened: &self.widened };
        linear.run(&mut self.device, out, &Then::Bias(bias))
    }

    fn linear_add(
        &mut self,
        num_rows: usize,
        x: &Self::Buffer,
        matrix: &Self::Matrix,
        bias: Option<&Self::Vector>,
        residual: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        let linear =
            Linear { check: Check("linear_add"), num_rows, x, matrix, widened: &self.widened };
        linear.run(&mut self.device, residual, &Then::Add(bias))
    }

    fn feed_forward(
        &mut self,
        num_rows: usize,
        x: &Self::Buffer,
        parts: FeedForward<'_, Self::Matrix, Self::Vector>,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        let matrix = parts.gate.matrix;
        let linear =
            Linear { check: Check("feed_forward"), num_rows, x, matrix, widened: &self.widened };
        linear.feed_forward(&mut self.device, &parts, out, &mut self.gate_room)
    }

    fn activate(
        &mut self,
        rows: (usize, usize),
        activation: Activation,
        gate: &Self::Buffer,
        up: Option<&Self::Buffer>,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        products::activate(&mut self.device, rows, activation, (gate, up), out)
    }

    fn rope_and_cache_write(
        &mut self,
        step: &Self::Step,
        shape: &AttentionShape,
        rope: &Self::RopeTable,
        qkv: &mut Self::Buffer,
        cache: &mut Self::LayerCache,
    ) -> Result<(), BackendError> {
        attention::rope_and_cache_write(&mut self.device, step, shape, rope, qkv, cache)
    }

    fn attention(
        &mut self,
        step: &Self::Step,
        shape: &AttentionShape,
        qkv: &Self::Buffer,
        cache: &Self::LayerCache,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        let before = self.split_room.as_ref().map(SplitRoom::addresses);
        let room = &mut self.split_room;
        let done = attention::attention(&mut self.device, step, shape, (qkv, out), cache, room);
        if before != self.split_room.as_ref().map(SplitRoom::addresses) {
            // The room grew, or could not: graphs name the old one.
            self.forget_graphs()?;
        }
        done
    }

    fn all_reduce(
        &mut self,
        _member: &Member,
        num_rows: usize,
        width: usize,
        buffer: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        let check = Check("all_reduce");
        check.holds("buffer", buffer.len(), num_rows, width)?;
        let address = buffer.argument(check, "buffer", Elements::F32)?.bits();
        self.device.all_reduce(address, num_rows * width)
    }

    fn gather_logit_rows(
        &mut self,
        step: &Self::Step,
        width: usize,
        x: &Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        let check = Check("gather_logit_rows");
        let StepRows { num_tokens, num_logit_rows } = step.rows();
        check.holds("x", x.len(), num_tokens, width)?;
        check.holds("out", out.len(), num_logit_rows, width)?;
        let arguments = [
            out.argument(check, "out", Elements::F32)?,
            x.argument(check, "x", Elements::F32)?,
            step.array(StepArray::LogitRows),
            Argument::U32(width as u32),
        ];
        launch_rows(&mut self.device, "gather_rows", (num_logit_rows, width), &arguments)
    }

    fn has_sampler() -> bool {
        true
    }

    fn load_sampling(
        &mut self,
        step: &mut Self::Step,
        vocabulary: Vocabulary,
        rows: &[SampleRow<'_>],
    ) -> Result<(), BackendError> {
        let check = Check("load_sampling");
        check.equal("rows of the sampling", rows.len(), step.num_sampled_rows())?;
        check.at_most("`num_ids`", vocabulary.num_ids, vocabulary.size)?;
        step.set_sampled(vocabulary);
        let num_rows = step.rows().num_logit_rows;
        let held = self.sample_room.take().filter(|room| room.holds(num_rows, vocabulary.num_ids));
        let mut room = if let Some(room) = held {
            room
        } else {
            self.forget_graphs()?;
            let max_num_rows = num_rows.max(self.step_room.get().0);
            SampleRoom::new(&self.device, max_num_rows, vocabulary.num_ids)?
        };
        if !room.load(&self.device, rows, num_rows)? {
            self.forget_graphs()?;
        }
        self.sample_room = Some(room);
        Ok(())
    }

    fn sample(&mut self, step: &Self::Step, logits: &mut Self::Buffer) -> Result<(), BackendError> {
        let (Some(room), Some(vocabulary)) = (&self.sample_room, step.vocabulary()) else {
            return Check("sample").refuse("`load_sampling` must come before".to_owned());
        };
        room.sample(&mut self.device, logits, vocabulary, step.sampled())
    }

    fn send_sampled(&mut self, step: &Self::Step) -> Result<(), BackendError> {
        let num_bytes = step.num_sampled_rows() * size_of::<u32>();
        self.device.begin_download(step.sampled(), 0, num_bytes)
    }

    fn receive_sampled(&mut self, tokens: &mut [u32]) -> Result<(), BackendError> {
        self.device.end_download(bytemuck::cast_slice_mut(tokens))
    }

    fn read(&mut self, x: &Self::Buffer, out: &mut [f32]) -> Result<(), BackendError> {
        Check("read").holds("x", x.len(), 1, out.len())?;
        x.read(&self.device, out)
    }
}
