"""Which rule is broken how, and the network on which it matters.

A mutation takes the place of the entries of `rules.RULES` that it names.
"""

from __future__ import annotations

from dataclasses import dataclass

from broken_rules import (
    Rule,
    attends_to_queries,
    bilinear_crossed,
    blind,
    block_outside,
    concatenation_unrelated,
    copies_inside,
    copies_outside,
    directions_inside,
    einsum_backwards,
    eye_of_two,
    first_operand,
    first_part,
    groups_ignored,
    groups_not_related,
    inner_before_outer,
    linear_transposed,
    no_fix,
    no_follow,
    no_unify,
    not_moved,
    not_shuffled,
    padded_at_the_other_end,
    pairs_instead_of_halves,
    parts_backwards,
    pieces_backwards,
    pieces_interleaved,
    product_transposed,
    queries_like_values,
    reduced_the_other,
    rows_for_columns,
    rows_free,
    stacked_first,
    swapped,
    transposed_as_plain,
    ungrouped,
    unrelated,
    window_outside,
)
from widthwise.graph.rules import convolution, indexing, matrix, normalisation, recurrent, shape


@dataclass(frozen=True)
class Mutation:
    """A broken rule.

    family: the rule file. operators: the entries of RULES that it replaces. wrong: what is wrong
    with it. network: on which it matters, of `nets` or `tiny_nets`.
    """

    family: str
    operators: tuple[str, ...]
    wrong: str
    broken: Rule
    network: str

    def __str__(self) -> str:
        return f"{self.operators[0]}, {self.wrong}, {self.network}".replace(" ", "_")


P, M, C, N, S, X, R = "pointwise matrix convolution normalisation shape indexing recurrent".split()
conv, transposed = convolution.convolution, convolution.transposed
batch_norm, layer_norm = normalisation.batch_norm, normalisation.layer_norm
group_norm, attention = normalisation.group_norm, matrix.scaled_dot_product_attention
lstm, gru, rnn = (recurrent.RULES[n] for n in ("lstm", "gru", "rnn_tanh"))
lstm_cell, gru_cell = (recurrent.RULES[n] for n in ("lstm_cell", "gru_cell"))
VIEWS = ("view", "reshape", "unflatten", "flatten")
SPLITS = ("split", "split_with_sizes", "chunk")

_TABLE: tuple[tuple[str, str, str, Rule, str], ...] = (
    (P, "add add_", "operands unrelated", first_operand, "resnet"),
    (P, "add", "operands unrelated", first_operand, "gpt"),
    (P, "mul", "operands unrelated", first_operand, "layerscale"),
    (P, "mul", "operands unrelated", first_operand, "glu"),
    (P, "mul", "operands unrelated", first_operand, "buffer"),
    (P, "sub", "operands unrelated", first_operand, "difference"),
    (P, "where", "operands unrelated", first_operand, "where"),
    (P, "lerp", "operands unrelated", first_operand, "lerp"),
    (P, "relu", "result unrelated", unrelated, "mlp"),
    (P, "dropout", "result unrelated", unrelated, "mlp_batchnorm"),
    (P, "contiguous", "result unrelated", unrelated, "shuffle_view"),
    (M, "linear", "input untied", no_unify(matrix.linear, 0), "mlp"),
    (M, "linear", "input untied", no_unify(matrix.linear, 0), "seq2seq"),
    (M, "linear", "bias forgotten", no_unify(matrix.linear, 1), "mlp"),
    (M, "linear", "bias forgotten", no_unify(matrix.linear, 1), "encoder"),
    (M, "linear", "weight transposed", linear_transposed, "square"),
    (M, "matmul", "contracted dims untied", no_unify(matrix.matmul, 0), "gpt"),
    (M, "matmul", "heads untied", no_unify(matrix.matmul, 1, 2), "gpt"),
    (M, "bmm matmul", "result transposed", product_transposed, "features_by_features"),
    (M, "bmm", "contracted dims untied", no_unify(matrix.matmul, 0), "pointnet"),
    (M, "addmm", "contracted dims untied", no_unify(matrix.addmm, 0), "addmm"),
    (M, "addmm", "sum untied", no_unify(matrix.addmm, 1, 2), "addmm"),
    (M, "bilinear", "second input untied", no_unify(matrix.bilinear, 1), "bilinear"),
    (M, "bilinear", "bias forgotten", no_unify(matrix.bilinear, 2), "bilinear"),
    (M, "bilinear", "inputs crossed", bilinear_crossed, "bilinear_square"),
    (M, "einsum", "letters untied", no_unify(matrix.einsum, *range(9)), "einsum"),
    (M, "einsum", "letters untied", no_unify(matrix.einsum, *range(9)), "cross_attention"),
    (M, "einsum", "result backwards", einsum_backwards, "einsum_square"),
    (M, "scaled_dot_product_attention", "queries tied to values", queries_like_values, "attention"),
    (M, "scaled_dot_product_attention", "features of queries", attends_to_queries, "llama_sdpa"),
    (M, "scaled_dot_product_attention", "groups swapped", swapped(attention, matrix), "llama_sdpa"),
    (M, "scaled_dot_product_attention", "heads ungrouped", ungrouped, "llama_sdpa"),
    (C, "conv2d", "input untied", no_unify(conv, 1), "cnn"),
    (C, "conv2d", "bias forgotten", no_unify(conv, 2), "cnn"),
    (C, "conv2d", "kernel and space free", no_fix(conv), "cnn"),
    (C, "conv2d", "groups do not follow", no_follow(conv), "resnext"),
    (C, "conv2d", "groups do not follow", no_follow(conv), "separable"),
    (C, "conv2d", "groups swapped", swapped(conv, convolution), "resnext"),
    (C, "conv2d", "groups of the result untied", no_unify(conv, 0), "resnext"),
    (C, "conv2d", "groups not related", groups_not_related, "separable"),
    (C, "conv1d", "input untied", no_unify(conv, 1), "pointnet"),
    (C, "conv_transpose2d", "input untied", no_unify(transposed, 0), "conv_transpose"),
    (C, "conv_transpose2d", "bias forgotten", no_unify(transposed, 1), "conv_transpose"),
    (C, "conv_transpose2d", "weight as that of conv", transposed_as_plain, "square_transposed"),
    (C, "conv_transpose2d", "groups do not follow", no_follow(transposed), "grouped_transposed"),
    (C, "max_pool2d", "result unrelated", unrelated, "cnn"),
    (C, "pixel_shuffle", "factor outside", swapped(convolution.pixel_shuffle, convolution),
     "pixel_shuffle"),
    (C, "pixel_shuffle", "block free", no_fix(convolution.pixel_shuffle), "pixel_shuffle"),
    (C, "pixel_unshuffle", "block outside", block_outside, "pixel_shuffle"),
    (C, "im2col", "window outside", window_outside, "windows"),
    (C, "col2im", "window outside", swapped(convolution.col2im, convolution), "folded"),
    (C, "channel_shuffle", "not shuffled", not_shuffled, "shuffle_module"),
    (C, "channel_shuffle", "groups do not follow", no_follow(convolution.channel_shuffle),
     "shuffle_module"),
    (N, "batch_norm", "weight forgotten", no_unify(batch_norm, 0), "cnn"),
    (N, "batch_norm", "bias forgotten", no_unify(batch_norm, 1), "mlp_batchnorm"),
    (N, "batch_norm", "mean forgotten", no_unify(batch_norm, 2), "resnet"),
    (N, "batch_norm", "variance forgotten", no_unify(batch_norm, 3), "separable"),
    (N, "batch_norm", "variance forgotten", no_unify(batch_norm, 3), "densenet"),
    (N, "layer_norm", "weight forgotten", no_unify(layer_norm, 0), "mlp_layernorm"),
    (N, "layer_norm", "bias forgotten", no_unify(layer_norm, 1), "encoder"),
    (N, "layer_norm", "shape does not follow", no_follow(layer_norm), "mlp_layernorm"),
    (N, "rms_norm", "weight forgotten", no_unify(layer_norm, 0), "rms_norm"),
    (N, "group_norm", "groups ignored", groups_ignored, "groupnorm"),
    (N, "group_norm", "weight forgotten", no_unify(group_norm, 0), "groupnorm"),
    (N, "group_norm", "groups do not follow", no_follow(group_norm), "groupnorm"),
    (N, "group_norm", "groups inside", swapped(group_norm, normalisation), "groupnorm"),
    (N, "mean", "the other dim reduced", reduced_the_other, "mean_of_square"),
    (N, "argmax", "index of features", no_fix(normalisation.chosen), "argmax"),
    (N, "cumsum", "order free", blind, "cumsum"),
    (N, "roll", "order free", blind, "roll"),
    (N, "flip", "order free", blind, "flip"),
    (N, "sort", "order free", blind, "sort"),
    (N, "topk", "order free", blind, "topk"),
    (N, "diff", "order free", blind, "diff"),
    (N, "fft_rfft", "order free", blind, "fourier"),
    (N, "tril", "order free", no_fix(normalisation.lower_triangle), "tril"),
    (S, " ".join(VIEWS), "heads for head size", inner_before_outer, "vit"),
    (S, " ".join(VIEWS), "heads for head size", inner_before_outer, "gpt"),
    (S, " ".join(VIEWS), "sizes do not follow", no_follow(shape.view), "gpt"),
    (S, " ".join(VIEWS), "sizes do not follow", no_follow(shape.view), "shuffle_view"),
    (S, "permute", "not moved", not_moved, "permuted_square"),
    (S, "transpose", "not moved", not_moved, "transposed_square"),
    (S, "t", "not moved", not_moved, "turned_square"),
    (S, "movedim", "result unrelated", unrelated, "movedim"),
    (S, "expand", "sizes do not follow", no_follow(shape.expand), "llama"),
    (S, "expand_as", "result unrelated", unrelated, "squeeze_excite"),
    (S, "repeat", "copies inside", copies_inside, "repeat"),
    (S, "repeat_interleave", "copies outside", copies_outside, "interleave"),
    (S, "cat", "parts unrelated", concatenation_unrelated, "densenet"),
    (S, "cat", "parts unrelated", concatenation_unrelated, "unet"),
    (S, "cat", "rotary halves untied", concatenation_unrelated, "llama"),
    (S, "cat", "parts backwards", parts_backwards, "two_halves"),
    (S, "stack", "operands untied", no_unify(shape.stack, *range(9)), "stack"),
    (S, "stack", "counted dim at the wrong place", stacked_first, "stack"),
    (S, " ".join(SPLITS), "pieces backwards", pieces_backwards, "chunked"),
    (S, " ".join(SPLITS), "pieces interleaved", pieces_interleaved, "chunked"),
    (S, " ".join(SPLITS), "pieces unrelated", unrelated, "gpt"),
    (S, " ".join(SPLITS), "sizes do not follow", no_follow(shape.splits), "gpt"),
    (S, "glu", "halves untied", no_unify(shape.glu, 0), "glu"),
    (S, "glu", "pairs instead of halves", pairs_instead_of_halves, "glu"),
    (S, "unbind", "counted dim free", no_fix(shape.unbind), "vit"),
    (S, "select", "dim free", no_fix(shape.select), "select"),
    (S, "slice", "start ignored", first_part, "last_half"),
    (S, "slice", "end does not follow", no_follow(shape.slices), "first_half"),
    (S, "slice", "every other one free", no_fix(shape.slices), "every_other"),
    (S, "pad", "other end", padded_at_the_other_end, "padded"),
    (S, "pad", "padding free", no_fix(shape.pad), "padded"),
    (S, "unfold", "windows free", no_fix(shape.unfold), "unfold"),
    (X, "embedding", "rows free", rows_free, "text"),
    (X, "embedding", "rows for columns", rows_for_columns, "square_table"),
    (X, "index", "picked dim free", no_fix(indexing.index), "index"),
    (X, "index_select", "picked dim free", no_fix(indexing.index_select), "index_select"),
    (X, "gather", "picked dim free", no_fix(indexing.gather), "gather_features"),
    (X, "gather", "other dims untied", no_unify(indexing.gather, *range(9)), "gather_rows"),
    (X, "scatter", "picked dim free", no_fix(indexing.scatter), "scattered"),
    (X, "scatter_add", "other dims untied", no_unify(indexing.scatter, *range(9)), "scatter_rows"),
    (X, "index_add", "other dims untied", no_unify(indexing.index_add, *range(9)), "index_add"),
    (X, "index_copy", "picked dim free", no_fix(indexing.index_add), "index_copy"),
    (X, "index_put", "values untied", no_unify(indexing.index_put, *range(9)), "index_put"),
    (X, "arange", "positions free", no_fix(indexing.counted), "arange"),
    (X, "zeros new_zeros", "size does not follow", no_follow(indexing.made), "lstm_cell"),
    (X, "eye", "two dims", eye_of_two, "pointnet"),
    (X, "eye", "size does not follow", no_follow(indexing.eye), "pointnet"),
    (R, "lstm", "input untied", no_unify(lstm, 1), "lstm_2"),
    (R, "lstm", "hidden weight untied", no_unify(lstm, 2), "lstm"),
    (R, "lstm", "bias forgotten", no_unify(lstm, 5, 6), "lstm"),
    (R, "lstm", "gates and units swapped", swapped(lstm, recurrent), "lstm"),
    (R, "lstm", "second layer untied", no_unify(lstm, 7), "lstm_2"),
    (R, "lstm", "directions inside", directions_inside(lstm), "lstm_bidirectional"),
    (R, "gru", "hidden weight untied", no_unify(gru, 2), "gru"),
    (R, "gru", "gates and units swapped", swapped(gru, recurrent), "gru"),
    (R, "rnn_tanh", "bias forgotten", no_unify(rnn, 5), "rnn"),
    (R, "lstm_cell", "cell state untied", no_unify(lstm_cell, 0), "lstm_cell"),
    (R, "lstm_cell", "hidden weight untied", no_unify(lstm_cell, 2), "seq2seq"),
    (R, "lstm_cell", "gates and units swapped", swapped(lstm_cell, recurrent), "lstm_cell"),
    (R, "gru_cell", "bias forgotten", no_unify(gru_cell, 4), "gru_cell"),
)  # fmt: skip

MUTATIONS = tuple(Mutation(f, tuple(o.split()), w, b, n) for f, o, w, b, n in _TABLE)
