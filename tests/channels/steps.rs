//! What couples channels: each step of a random network as a template of text IR.
//!
//! `%x` is an image of `c` channels, `h` by `w`, `%t` a sequence of `n` vectors of `d` numbers, `%v` a vector of `d`
//! numbers, `%o` some value of the same shape. `m` and `g` are numbers of channels and of groups. `%y`, `%y1` and `%y2` are
//! what later steps may build on. `(?a|b)` is one of them, `(!a|b)` the first before opset 13, `(!18 a|b)`
//! before opset 18. Constants stand where they
//! are read, as `net.rs` says.

pub const ACTIVATIONS: &str = "(?Relu|Relu|LeakyRelu<alpha=0.1>|Sigmoid|HardSigmoid|Tanh|Softplus|Elu)";

/// Nothing may be cut at the nodes of a step whose name begins so.
pub const BARRIER: &str = "barrier-";

pub const STEPS: &[(&str, &str)] = &[
    (
        "chain",
        "%a = Conv<pads=[1,1,1,1]>(%x, #w[m,c,3,3](?|, #w[m])); \
         %y = (?ACT(%a)|Clip(%a, #f[0.25], #f[4.0]))",
    ),
    (
        "residual",
        "%a = Conv<pads=[1,1,1,1]>(%x, #w[c,c,3,3], #w[c]); %y1 = Conv(%a, #w[c,c,1,1]); \
         %y2 = (?Add(%x, %a)|Mul(%x, %a)|Sub(%a, %x)|Max(%x, %a)|Sum(%x, %a, %y1)|Mean(%y1, %x, %a))",
    ),
    ("combine", "%y = (?Add(%x, %o)|Mul(%o, %x)|Concat<axis=2>(%x, %o)|Concat<axis=1>(%o, %x))"),
    (
        "concat",
        "%a = Conv(%x, #w[m,c,1,1]); %b = ACT(%a); %d = Concat<axis=(?1|-3)>(%x, %b); \
         %e = Conv<pads=[1,1,1,1]>(%d, #w[4,c+m,3,3], #w[4]); \
         %y = (?Concat<axis=1>(%d, %e)|Concat<axis=1>(%e, %x, %b)|Concat<axis=1>(%x, %e, %x))",
    ),
    (
        "concat-norm",
        "%a = Conv(%x, #w[m,c,1,1]); %d = Concat<axis=1>(%a, %x); \
         %e = BatchNormalization(%d, #w[c+m], #w[c+m], #w[c+m], #p[c+m]); %y = Relu(%e)",
    ),
    (
        "concat-space",
        "%a = Conv<pads=[1,1,1,1]>(%x, #w[c,c,3,3]); %b = Concat<axis=3>(%x, %a); \
         %y = MaxPool<kernel_shape=[1,2], strides=[1,2]>(%b)",
    ),
    (
        "split",
        "(?%a, %b = (!18 Split<axis=1>|Split<axis=1, num_outputs=2>)(%x)|\
           %a, %b = (!Split<axis=1, split=[1,$[c-1]]>(%x)|Split<axis=1>(%x, #i[1,c-1]))|\
           %a, %b = (!Split<axis=1, split=[$[c-2],2]>(%x)|Split<axis=1>(%x, #i[c-2,2]))); \
         (?%y = Concat<axis=1>(%b, %a)|%y1 = Relu(%a); %y2 = Tanh(%b)|%y = Sigmoid(%b))",
    ),
    ("gate", "%a, %b = (!18 Split<axis=1>|Split<axis=1, num_outputs=2>)(%x); %s = Sigmoid(%b); %y = Mul(%a, %s)"),
    (
        "slice",
        "%y1 = Slice(%x, #i[(?0|1|-3)], #i[(?c|c-1|9223372036854775807)], #i[1](?|, #i[1]|, #i[2])); \
         %y2 = Slice(%x, #i[1], #i[h], #i[2])",
    ),
    (
        "slice-step",
        "%y = Slice(%x, (?#i[-1], #i[-100], #i[1], #i[-1]|#i[c-2], #i[-100], #i[1], #i[-2]|\
                          #i[(?0|1)], #i[c], #i[1], #i[2]|#i[0], #i[100], #i[1], #i[3]))",
    ),
    (
        "flatten",
        "%f = Flatten(%x); \
         %y = (?Gemm(%f, #w[c*h*w,6], #w[6])|Gemm<transB=1>(%f, #w[6,c*h*w])|MatMul(%f, #w[c*h*w,6]))",
    ),
    ("reshape", "%f = Reshape(%x, #r[c*h*w]); %a = ACT(%f); %y = MatMul(%a, #w[c*h*w,6])"),
    (
        // As exporters write `x.view(x.size(0), -1)`.
        "reshape-computed",
        "%s = Shape(%x); %n = Gather(%s, #s[0]); %u = (!Unsqueeze<axes=[0]>(%n)|Unsqueeze(%n, #i[0])); \
         %l = Concat<axis=0>(%u, #i[-1]); %f = Reshape(%x, %l); %y = Gemm(%f, #w[c*h*w,4], #w[4])",
    ),
    (
        // Blocks that do not end where channels do.
        "refold",
        "%a = Reshape(%x, #r[(?2,c/2*h,w|c*h,w|h,c,w|c/2,2*h,w|c,h*w)]); %b = ACT(%a); \
         %y = (?Reshape(%b, #r[c,h,w])|Identity(%b))",
    ),
    (
        "transpose",
        "%p = Transpose<perm=[0,2,3,1]>(%x); %q = MatMul(%p, #w[c,m]); %r = Add(#w[m], %q); %s = ACT(%r); \
         %y = Transpose<perm=[0,3,1,2]>(%s)",
    ),
    (
        "depthwise",
        "%a = (?Conv<group=$c, pads=[1,1,1,1]>(%x, #w[c,1,3,3], #w[c])|Conv<group=$c>(%x, #w[2*c,1,1,1], #w[2*c])); \
         %y = ACT(%a)",
    ),
    ("grouped", "%a = Conv<group=$g>(%x, #w[(?g|2*g|3*g),c/g,1,1]); %y = ACT(%a)"),
    (
        "conv-transpose",
        "%a = (?ConvTranspose<strides=[2,2]>(%x, #w[c,4,2,2], #w[4])|\
                ConvTranspose<group=$c, strides=[2,2]>(%x, #w[c,1,2,2], #w[c])|\
                ConvTranspose<group=$g, strides=[2,2]>(%x, #w[c,2,2,2], #w[2*g])); \
         %y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(%a)",
    ),
    (
        "shuffle",
        "%p = Reshape(%x, #r[g,c/g,h,w]); %q = Transpose<perm=[0,2,1,3,4]>(%p); %r = Reshape(%q, #r[c,h,w]); \
         %y = (?Conv(%r, #w[m,c,1,1])|Conv<group=$g>(%r, #w[c,c/g,1,1], #w[c])|Conv<group=$c>(%r, #w[c,1,1,1])|Relu(%r))",
    ),
    (
        // Sizes as exporters compute them: each dim for itself, or all of another value.
        "shuffle-computed",
        "%s = Shape(%x); %n = Gather(%s, #i[0]); %a = Gather(%s, #i[2]); %b = Gather(%s, #i[3]); \
         %d = Concat<axis=0>(%n, #i[g,c/g], %a, %b); %p = Reshape(%x, %d); %q = Transpose<perm=[0,2,1,3,4]>(%p); \
         %r = Reshape(%q, %s); %y = (?Conv(%r, #w[m,c,1,1])|Conv<group=$g>(%r, #w[c,c/g,1,1], #w[c])|Relu(%r))",
    ),
    (
        "expand-computed",
        "%p = GlobalAveragePool(%x); %q = Conv(%p, #w[c,c,1,1]); %u = Sigmoid(%q); %s = Shape(%x); \
         %e = Expand(%u, %s); %y = (?Mul(%x, %e)|Concat<axis=1>(%x, %e)|Add(%e, %x))",
    ),
    (
        "resize-computed",
        "%a = Conv<pads=[1,1,1,1], strides=[2,2]>(%x, #w[m,c,3,3]); %s = Shape(%a); %z = Shape(%x); \
         %n = Slice(%s, #i[0], #i[2]); %b = Slice(%z, #i[2], #i[4]); %l = Concat<axis=0>(%n, %b); \
         %d = Resize<coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\">(%a, #q[], #q[], %l); \
         %y = (?Concat<axis=1>(%x, %d)|Conv(%d, #w[m,m,1,1]))",
    ),
    (
        "attention-over-pixels",
        "%s = Shape(%x); %k = Conv(%x, #w[4,c,1,1]); %q = Conv(%x, #w[4,c,1,1]); %vv = Conv(%x, #w[m,c,1,1]); \
         %a = Reshape(%q, #r[4,h*w]); %b = Reshape(%k, #r[4,h*w]); %d = Reshape(%vv, #r[m,h*w]); \
         %e = Transpose<perm=[0,2,1]>(%a); %f = MatMul(%e, %b); %i = Softmax<axis=-1>(%f); \
         %j = Transpose<perm=[0,2,1]>(%i); %oo = MatMul(%d, %j); %y = Reshape(%oo, #r[m,h,w])",
    ),
    (
        "squeeze-excite",
        "%p = (?GlobalAveragePool(%x)|GlobalMaxPool(%x)|(!18 ReduceMean<axes=[2,3]>(%x)|ReduceMean(%x, #i[2,3]))); %q = Conv(%p, #w[4,c,1,1], #w[4]); \
         %r = Relu(%q); %s = Conv(%r, #w[c,4,1,1], #w[c]); %u = (?Sigmoid|HardSigmoid<alpha=0.1667>)(%s); \
         %y = Mul(%x, %u)",
    ),
    ("batch-norm", "%a = BatchNormalization(%x, #w[c], #w[c], #w[c], #p[c]); %y = ACT(%a)"),
    ("instance-norm", "%y = InstanceNormalization<epsilon=0.1>(%x, #w[c], #w[c])"),
    (
        // As exporters write it before opset 18.
        "group-norm",
        "%a = Reshape(%x, #r[2,c*h*w/2]); %b = InstanceNormalization<epsilon=0.1>(%a, #p[2], #w[2]); \
         %d = Reshape(%b, #r[c,h,w]); %e = Mul(%d, #w[c,1,1]); %y = Add(%e, #w[c,1,1])",
    ),
    ("prelu", "%y = PRelu(%x, #w[c,1,1])"),
    ("per-channel", "%y = (?Add(%x, #w[c,1,1])|Mul(#w[c,1,1], %x)|Sub(%x, #w[1,c,1,1])|Max(#w[1,c,1,1], %x))"),
    (
        "pool",
        "%y = (?MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>|MaxPool<kernel_shape=[2,2], strides=[2,2]>|\
                AveragePool<kernel_shape=[3,3], pads=[1,1,1,1](?|, count_include_pad=1)>|\
                AveragePool<kernel_shape=[2,2], strides=[2,2]>)(%x)",
    ),
    (
        "pad",
        "%a = Pad(?(%x, #i[0,0,1,0,0,0,0,1])|(%x, #i[0,0,1,0,0,0,0,1], #f[0.75])|\
                  <mode=\"edge\">(%x, #i[0,0,1,0,0,0,0,1])|<mode=\"reflect\">(%x, #i[0,0,1,0,0,0,0,1])); \
         %y = AveragePool<kernel_shape=[2,2]>(%a)",
    ),
    (
        "resize",
        "%a = Resize<coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\">\
              (%x, #q[], #q[1.0,1.0,2.0,2.0]); \
         %y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(%a)",
    ),
    (
        "depth-to-space",
        "%a = Conv(%x, #w[8,c,1,1]); %b = DepthToSpace<blocksize=2, mode=\"(?DCR|CRD)\">(%a); \
         %y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(%b)",
    ),
    (
        "reduce",
        "%y = (!18 (?ReduceMean<axes=[2,3], keepdims=0>|ReduceMean<axes=[-1,-2]>|ReduceMax<axes=[3]>)(%x)|\
                   (?ReduceMean<keepdims=0>(%x, #i[2,3])|ReduceMean(%x, #i[-1,-2])|ReduceMax(%x, #i[3])))",
    ),
    (
        "squeeze",
        "%p = GlobalAveragePool(%x); %y1 = (!Squeeze<axes=[2,3]>(%p)|Squeeze(%p, #i[2,3])); \
         %b = Gemm(%y1, #w[c,c], #w[c]); %u = (!Unsqueeze<axes=[2,3]>(%b)|Unsqueeze(%b, #i[2,3])); %y2 = Mul(%x, %u)",
    ),
    (
        "gather",
        "(?%y = Gather<axis=1>(%x, #i[(?0,2,1|-1,0,0,1|3,c-1)])|\
           %a = Gather<axis=(?2|3)>(%x, #s[-1]); %y = Transpose<perm=[0,2,1]>(%a))",
    ),
    (
        // Rows and columns of channels, and a channel by its number.
        "gather-grid",
        "(?%k : i64[2,2] = Constant<value=i64[2,2]{(?0,1,2,3|3,1,2,0|0,0,2,-1|0,2,0,2)}>(); %a = Gather<axis=1>(%x, %k); \
           %b = ACT(%a); %y = Reshape(%b, #r[4,h,w])|\
           %a = Gather<axis=1>(%x, #s[(?0|-1)]); %u = (!Unsqueeze<axes=[1]>(%a)|Unsqueeze(%a, #i[1])); %y = Mul(%x, %u))",
    ),
    (
        // Two channels or more: tract 0.23 forgets to repeat a single one.
        "tile",
        "%d = Concat<axis=1>(%x, %o); %a = Tile(%d, #i[1,(?1|2),(?1|2),1]); \
         %y = MaxPool<kernel_shape=[2,1], strides=[2,1]>(%a)",
    ),
    (
        // As exporters write a class token.
        "expand-computed",
        "%s = Shape(%t); %n = Gather(%s, #i[0]); %l = Concat<axis=0>(%n, #i[1,(?1|d)]); %e = Expand(#w[1,1,d], %l); \
         %j = Concat<axis=1>(%e, %t); %y1 = MatMul(%j, #w[d,d]); %y2 = Gather<axis=1>(%j, #s[0])",
    ),
    (
        "einsum",
        "%y = (!MatMul(%t, #w[d,m])|\
               Einsum<equation=\"(?btd,de->bte|btn,nk->btk)\">(%t, #w[d,m]))",
    ),
    (
        // A matrix for each of two heads.
        "stack",
        "%a = Reshape(%t, #r[n,2,d/2]); %b = Transpose<perm=[0,2,1,3]>(%a); %k = MatMul(%b, #w[2,d/2,m]); %p = ACT(%k); \
         %y = MatMul(%p, #w[(?2|1),m,4])",
    ),
    ("hidden", "%a = (?Gemm(%v, #w[d,m], #w[m])|Gemm<transB=1>(%v, #w[m,d])|MatMul(%v, #w[d,m])); %y = ACT(%a)"),
    (
        // No GRU: tract 0.23 stops at some layouts of what it reads.
        "recurrent",
        "%p = Transpose<perm=[1,0,2]>(%t); \
         (?%q = LSTM<hidden_size=$m>(%p, #w[1,4*m,d], #w[1,4*m,m], #w[1,8*m])|\
           %q = RNN<direction=\"reverse\", hidden_size=$m>(%p, #w[1,m,d], #w[1,m,m])); \
         %s = (!Squeeze<axes=[1]>(%q)|Squeeze(%q, #i[1])); %r = Transpose<perm=[1,0,2]>(%s); %y = MatMul(%r, #w[m,d])",
    ),
    (
        // Both directions side by side, and the last state.
        "recurrent-both",
        "%p = Transpose<perm=[1,0,2]>(%t); \
         %q, %k = LSTM<direction=\"bidirectional\", hidden_size=$m>(%p, #w[2,4*m,d], #w[2,4*m,m], #w[2,8*m]); \
         %u = Transpose<perm=[2,0,1,3]>(%q); %f = Reshape(%u, #r[n,2*m]); %y1 = MatMul(%f, #w[2*m,d]); \
         %b = Transpose<perm=[1,0,2]>(%k); %y2 = MatMul(%b, #w[m,4])",
    ),
    // Positions mixed: the weight is on the left.
    ("mix", "%a = MatMul(#w[m,n], %t); %b = ACT(%a); %y = MatMul(#w[n,m], %b)"),
    (
        // Two axes that carry the same channels.
        "product",
        "%a = Reshape(%x, #r[c,h*w]); %b = Transpose<perm=[0,2,1]>(%a); %p = MatMul(%a, %b); %f = Flatten(%p); \
         %y = MatMul(%f, #w[c*c,4])",
    ),
    ("where", "%a = Conv(%x, #w[c,c,1,1]); %b = Greater(%x, #w[c,1,1]); %y = Where(%b, %x, %a)"),
    (
        "expand",
        "%p = GlobalAveragePool(%x); %e = Expand(%p, #i[1,(?1|c),h,w]); \
         %y = (?Conv<pads=[1,1,1,1]>(%e, #w[m,c,3,3])|Concat<axis=1>(%e, %x))",
    ),
    (
        "mlp",
        "%l = (!17 Identity(%t)|LayerNormalization<axis=-1>(%t, #w[d], #w[d])); %a = MatMul(%l, #w[d,2*d]); \
         %b = Add(%a, #w[2*d]); %p = Div(%b, #f[1.414]); %q = Erf(%p); %r = Add(%q, #f[1.0]); %s = Mul(%b, %r); \
         %u = Mul(%s, #f[0.5]); %e = MatMul(%u, #w[2*d,d]); %y = Add(%t, %e)",
    ),
    (
        "attention",
        "%q = MatMul(%t, #w[d,d]); %k0 = MatMul(%t, #w[d,d]); %k = Add(#w[d], %k0); %u = MatMul(%t, #w[d,d]); \
         %qs = Reshape(%q, #r[n,2,d/2]); %ks = Reshape(%k, #r[n,2,d/2]); %us = Reshape(%u, #r[n,2,d/2]); \
         %qt = Transpose<perm=[0,2,1,3]>(%qs); %kt = Transpose<perm=[0,2,3,1]>(%ks); \
         %ut = Transpose<perm=[0,2,1,3]>(%us); %s = MatMul(%qt, %kt); %r = Mul(%s, #f[0.5]); \
         %p = Softmax<axis=-1>(%r); %b = MatMul(%p, %ut); %e = Transpose<perm=[0,2,1,3]>(%b); \
         %f = Reshape(%e, #r[n,d]); %y = MatMul(%f, #w[d,d])",
    ),
    (
        // One matrix; the heads taken apart by Split, or by Gather of an axis.
        "attention-joint",
        "%a = MatMul(%t, #w[d,3*d]); %b = Add(%a, #w[3*d]); \
         (?%q, %k, %u = (!18 Split<axis=-1>|Split<axis=-1, num_outputs=3>)(%b); \
           %qs = Reshape(%q, #r[n,2,d/2]); %ks = Reshape(%k, #r[n,2,d/2]); %us = Reshape(%u, #r[n,2,d/2]); \
           %qt = Transpose<perm=[0,2,1,3]>(%qs); %kt = Transpose<perm=[0,2,1,3]>(%ks); \
           %ut = Transpose<perm=[0,2,1,3]>(%us)|\
           %all = Reshape(%b, #r[n,3,2,d/2]); %apart = Transpose<perm=[2,0,3,1,4]>(%all); \
           %qt = Gather(%apart, #s[0]); %kt = Gather(%apart, #s[1]); %ut = Gather(%apart, #s[2])); \
         %kk = Transpose<perm=[0,1,3,2]>(%kt); %s = MatMul(%qt, %kk); %p = Softmax<axis=-1>(%s); \
         %e = MatMul(%p, %ut); %f = Transpose<perm=[0,2,1,3]>(%e); %g = Reshape(%f, #r[n,d]); \
         %z = MatMul(%g, #w[d,d]); %y = Add(%t, %z)",
    ),
    (
        "shared",
        "%k : f32[$c,$c,3,3] = Constant<value=f32[$c,$c,3,3] = seed(5)>(); %w = Identity(%k); %y1 = Conv<pads=[1,1,1,1]>(%x, %k); %y2 = Conv<pads=[1,1,1,1]>(%y1, (?%k|%w), #w[c])",
    ),
    ("constant-node", "%w : f32[$m,$c,1,1] = Constant<value=f32[$m,$c,1,1] = seed(7)>(); %y = Conv(%x, %w, #w[m])"),
    (
        // A weight stored the other way round, and scaled.
        "weight-computed",
        "%p = Transpose<perm=[3,2,0,1]>(#w[1,1,c,m]); %w = Mul(%p, #w[m,1,1,1]); %y = Conv(%x, %w)",
    ),
    // Channels among the batch and back.
    ("batch-merge", "%a = Reshape(%x, #i[-1,1,h,w]); %b = ACT(%a); %y = Reshape(%b, #i[-1,c,h,w])"),
    (
        "weight-parts",
        "%k : f32[$[2*m],$c,1,1] = Constant<value=f32[$[2*m],$c,1,1] = seed(3)>(); \
         (?%p, %q = Split<axis=0>(%k)|%p = Slice(%k, #i[m], #i[2*m], #i[0]); %q = Gather<axis=0>(%k, #i[0,1,1,2])); \
         %y1 = Conv(%x, %p); %y2 = Conv(%x, %q)",
    ),
    (
        "weight-joined",
        "%p = Concat<axis=0>(#w[2,c,1,1], #w[m,c,1,1]); %q = Concat<axis=1>(%p, %p); \
         %d = Concat<axis=1>(%x, %x); %y = Conv(%d, %q)",
    ),
    (
        "weight-reshaped",
        "%p = Reshape(#w[m,c*9], #i[m,c,3,3]); %q = Reshape(#w[c,m], #i[-1]); %r = Reshape(%q, #i[m,c,1,1]); \
         %a = Conv<pads=[1,1,1,1]>(%x, %p); %b = Conv(%x, %r); %y = (?Add(%a, %b)|Identity(%a)|Mul(%b, %a))",
    ),
    // A code and its decoder share a matrix.
    (
        "tied",
        "%w : f32[$d,$m] = Constant<value=f32[$d,$m] = seed(4)>(); %a = MatMul(%t, %w); %b = ACT(%a); \
         %u = Transpose<perm=[1,0]>(%w); %y = MatMul(%b, %u)",
    ),
    (
        "conv-1d",
        "%a = Conv<pads=[1,1]>(%t, #w[m,n,3], #w[m]); %b = ACT(%a); %e = MaxPool<kernel_shape=[3], pads=[1,1]>(%b); \
         %y = Conv(%e, #w[n,m,1])",
    ),
    ("gemm-left", "%a = Gemm<transB=1>(#w[m,d], %v, #w[m,1]); %b = ACT(%a); %y = Transpose<perm=[1,0]>(%b)"),
    (
        "gemm-self",
        "%a = Gemm(%v, #w[d,m], #w[1,m]); %b = Transpose<perm=[1,0]>(%a); %k = MatMul(%v, #w[d,4]); \
         %e = Gemm(%b, %k, (?#w[1]|#w[4]|#w[m,1])); %y = MatMul(%a, %e)",
    ),
    (
        "outer",
        "%a = Reshape(%v, #r[d,1]); %b = Reshape(%v, #r[1,d]); %p = MatMul(%a, %b); %f = Flatten(%p); \
         %y = MatMul(%f, #w[d*d,4])",
    ),
    (
        // One head of keys and values for all.
        "attention-shared",
        "%q = MatMul(%t, #w[d,d]); %k = MatMul(%t, #w[d,d/2]); %u = MatMul(%t, #w[d,d/2]); \
         %qs = Reshape(%q, #r[n,2,d/2]); %qt = Transpose<perm=[0,2,1,3]>(%qs); \
         %ks = Reshape(%k, #r[n,1,d/2]); %kt = Transpose<perm=[0,2,3,1]>(%ks); \
         %us = Reshape(%u, #r[n,1,d/2]); %ut = Transpose<perm=[0,2,1,3]>(%us); \
         %s = MatMul(%qt, %kt); %p = Softmax<axis=-1>(%s); %b = MatMul(%p, %ut); \
         %e = Transpose<perm=[0,2,1,3]>(%b); %f = Reshape(%e, #r[n,d]); %y = MatMul(%f, #w[d,d])",
    ),
    (
        "along-space",
        "%a = Add(%x, #w[w]); %b = Mul(#w[h,1], %a); %y = (?Identity(%b)|Softmax<axis=-1>(%b)|Pad(%b, #i[0,0,0,0,0,0,0,0]))",
    ),
    ("barrier-pad", "%y = Pad(%x, #i[0,1,0,0,0,1,0,0])"),
    ("barrier-cumsum", "%y = CumSum(%x, #s[1])"),
    ("barrier-unknown", "%y : f32[$N,$c,$h,$w] = Relu<mystery=1>(%x)"),
    ("barrier-lrn", "%y = LRN<size=3>(%x)"),
    ("barrier-softmax", "%y = Softmax<axis=1>(%x)"),
    (
        "barrier-layer-norm",
        "%a = Transpose<perm=[0,2,3,1]>(%x); \
         %b = (!17 Softmax<axis=-1>(%a)|LayerNormalization<axis=-1>(%a, #w[c], #w[c])); %y = Transpose<perm=[0,3,1,2]>(%b)",
    ),
    ("barrier-reduce", "%a = Reduce(?Mean|Max|Min)(!18 <axes=[1]>(%x)|(%x, #i[1])); %y = Sub(%x, %a)"),
    (
        "barrier-capture",
        "%a = ReduceMean<keepdims=0>(%x); %b = Greater(%a, #f[0.0]); \
         %y = If(%b) @ { then_branch t { %d : ? = Relu(%x) output %d } else_branch e { %e : ? = Neg(%x) output %e } }",
    ),
];
