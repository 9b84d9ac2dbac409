"""Products of matrices: the contracted dims are the same features, the others pass."""

from __future__ import annotations

from torch import fx

from widthwise.graph.dims import Dims, Term, resolve, size, split
from widthwise.graph.rules.op import Op, Result
from widthwise.graph.rules.pointwise import broadcast


def linear(op: Op) -> Result:
    """linear(input (*, I), weight (O, I) or (I), bias (O))."""
    x, weight = op.dims("input"), op.dims("weight")
    op.unify(x[-1], weight[-1])
    op.contract(x[-1])
    op.consume("weight", -1)
    out = weight[:-1]
    if op.has("bias") and out:
        op.unify(out[0], op.dims("bias")[0])
    return Result([*x[:-1], *out])


def matmul(op: Op) -> Result:
    """matmul, mm, bmm, mv, dot: (*, N, K) @ (*, K, M), vectors as torch.matmul treats them."""
    a_node, b_node = op.tensors()[:2]
    return Result(_product(op, a_node, b_node))


def _product(op: Op, a_node: fx.Node, b_node: fx.Node) -> Dims:
    a, b = op.dims_of(a_node), op.dims_of(b_node)
    left, right = a[-1], b[-2] if len(b) > 1 else b[0]
    op.unify(left, right)
    op.contract(left)
    op.consumed += [(a_node, -1), (b_node, -2 if len(b) > 1 else -1)]
    lead = broadcast(op, [a[:-2], b[:-2]]) if len(a) > 2 or len(b) > 2 else []
    if len(a) == len(b) == 4:  # attention by hand: (N, heads, L, head size)
        op.roles += [(lead[-1], "heads"), (left, "head_size"), (b[-1], "head_size")]
    return [*lead, *(a[-2:-1] if len(a) > 1 else []), *(b[-1:] if len(b) > 1 else [])]


def addmm(op: Op) -> Result:
    """addmm, addbmm-free forms: self + a @ b."""
    added, a, b = op.tensors()[:3]
    product = _product(op, a, b)
    return Result(broadcast(op, [op.dims_of(added), product]))


def grouped(op: Op) -> Result:
    """_grouped_mm(tokens (T, I), weights (experts, I, O), offsets (experts)): rows by expert."""
    x, weight = (op.dims_of(t) for t in op.tensors()[:2])
    if len(x) != 2 or len(weight) != 3:
        op.fix([*x, *weight], "its rows are grouped in another way")
        return Result(op.kept())
    op.fix([x[0], weight[0]], "experts are picked by number")
    op.unify(x[1], weight[1])
    op.contract(x[1])
    op.consumed.append((op.tensors()[1], 1))
    return Result([x[0], weight[2]])


def addbmm(op: Op) -> Result:
    """addbmm(self (N, M), batch1 (B, N, K), batch2 (B, K, M)): the batch is summed over."""
    added, a, b = op.tensors()[:3]
    product = _product(op, a, b)
    op.contract(product[0])
    return Result(broadcast(op, [op.dims_of(added), product[1:]]))


def addr(op: Op) -> Result:
    """addr(self (N, M), vec1 (N), vec2 (M)), added to the outer product."""
    added, a, b = (op.dims_of(t) for t in op.tensors()[:3])
    return Result(broadcast(op, [added, [*a, *b]]))


def tensordot(op: Op) -> Result:
    """tensordot(self, other, dims_self, dims_other): pairs of dims are summed over."""
    a_node, b_node = op.tensors()[:2]
    a, b = op.dims_of(a_node), op.dims_of(b_node)
    mine = [op.dim(d, len(a)) for d in op.args["dims_self"]]
    its = [op.dim(d, len(b)) for d in op.args["dims_other"]]
    for i, j in zip(mine, its, strict=True):
        op.unify(a[i], b[j])
        op.contract(a[i])
        op.consumed += [(a_node, i), (b_node, j)]
    rest = [t for i, t in enumerate(a) if i not in mine]
    return Result([*rest, *(t for j, t in enumerate(b) if j not in its)])


def inner(op: Op) -> Result:
    """inner(self (*, K), other (*, K)): the last dims are summed over."""
    a, b = (op.dims_of(t) for t in op.tensors()[:2])
    if not a or not b:
        return Result(a or b)
    op.unify(a[-1], b[-1])
    op.contract(a[-1])
    op.consumed += [(t, -1) for t in op.tensors()[:2]]
    return Result([*a[:-1], *b[:-1]])


def vecdot(op: Op) -> Result:
    """linalg_vecdot(x, y, dim): products along one dim, summed."""
    both = broadcast(op, [op.dims("x"), op.dims("y")])
    at = op.dim(op.args["dim"], len(both))
    op.contract(both[at])
    return Result([t for i, t in enumerate(both) if i != at])


def cross(op: Op) -> Result:
    """linalg_cross(self, other, dim): one dim of three coordinates."""
    both = broadcast(op, [op.dims("self"), op.dims("other")])
    op.fix(both[op.dim(op.args["dim"], len(both))], "they are coordinates")
    return Result(both)


def kron(op: Op) -> Result:
    """kron: every dim is the first tensor's times the second's, the second's inside."""
    a, b = (op.dims_of(t) for t in op.tensors()[:2])
    rank = max(len(a), len(b))
    a, b = [()] * (rank - len(a)) + a, [()] * (rank - len(b)) + b
    return Result([(*x, *y) for x, y in zip(a, b, strict=True)])


def cdist(op: Op) -> Result:
    """cdist(x1 (*, P, M), x2 (*, R, M)) -> (*, P, R): distances over the last dim."""
    a, b = op.dims("x1"), op.dims("x2")
    op.unify(a[-1], b[-1])
    op.normalise(a[-1])
    return Result([*broadcast(op, [a[:-2], b[:-2]]), a[-2], b[-2]])


def distance(op: Op) -> Result:
    """pairwise_distance, cosine_similarity: of two vectors along one dim, the last or a named."""
    both = broadcast(op, [op.dims("x1"), op.dims("x2")])
    at = op.dim(op.args.get("dim", -1), len(both))
    op.normalise(both[at])
    kept = [()] if op.args.get("keepdim") else []
    return Result([*both[:at], *kept, *both[at + 1 :]])


def dist(op: Op) -> Result:
    """dist(self, other): one distance of two whole tensors."""
    op.normalise(*broadcast(op, [op.dims("self"), op.dims("other")]))
    return Result([])


def pdist(op: Op) -> Result:
    """pdist(self (N, M)): distances of all pairs of rows, one after the other."""
    x = op.dims("self")
    op.fix(x[0], "its pairs are taken one by one")
    op.normalise(x[1])
    return Result(op.kept())


def matrices(op: Op) -> Result:
    """inverse, det, qr, svd, ...: whole matrices, whatever dims of batches lie before them."""
    out = op.sizes if op.several else [op.sizes]
    lead = len(op.dims_of(op.tensors()[0])) - 2
    for node in op.tensors():
        op.fix(op.dims_of(node)[lead:], _WHOLE)
    x = broadcast(op, [op.dims_of(t)[:lead] for t in op.tensors()])
    found = [[*x, *op.fixed(sizes[lead:], _WHOLE)] for sizes in out]
    return Result(found if op.several else found[0])


def matrix_norm(op: Op) -> Result:
    """linalg_matrix_norm, nuclear_norm: of matrices in two dims, blind to order of rows."""
    x = op.dims("self")
    dims = op.listed(op.args.get("dim"), len(x))
    op.normalise(*(x[d] for d in dims))
    keep = op.args["keepdim"]
    return Result([() if i in dims else t for i, t in enumerate(x) if keep or i not in dims])


def bilinear(op: Op) -> Result:
    """bilinear(input1 (*, I), input2 (*, J), weight (O, I, J), bias (O))."""
    x, y, weight = op.dims("input1"), op.dims("input2"), op.dims("weight")
    op.unify(x[-1], weight[1])
    op.unify(y[-1], weight[2])
    op.contract(x[-1], y[-1])
    op.consume("weight", 1)
    if op.has("bias"):
        op.unify(weight[0], op.dims("bias")[0])
    return Result([*broadcast(op, [x[:-1], y[:-1]]), weight[0]])


def outer(op: Op) -> Result:
    """outer(self (N), vec2 (M))."""
    a, b = op.tensors()[:2]
    return Result([*op.dims_of(a), *op.dims_of(b)])


def einsum(op: Op) -> Result:
    """einsum: equal letters are equal features; letters missing in the result are summed over."""
    equation = str(op.args["equation"]).replace(" ", "")
    operands = op.tensors()
    sources, arrow, target = equation.partition("->")
    terms: dict[str, Term] = {}
    ellipses: list[Dims] = []
    places: dict[str, list[tuple[fx.Node, int]]] = {}
    for letters, node in zip(sources.split(","), operands, strict=True):
        dims = op.dims_of(node)
        before, dots, after = letters.partition("...")
        middle = len(dims) - len(before) - len(after)
        if dots:
            ellipses.append(dims[len(before) : len(before) + middle])
        positions = [*range(len(before)), *range(len(before) + middle, len(dims))]
        for letter, i in zip(before + after, positions, strict=True):
            places.setdefault(letter, []).append((node, i))
            if size(terms.setdefault(letter, dims[i])) == 1:
                terms[letter] = dims[i]
            elif size(dims[i]) > 1:
                op.unify(terms[letter], dims[i])
    if not arrow:
        counts = {c: sources.count(c) for c in terms}
        target = ("..." if ellipses else "") + "".join(sorted(c for c in terms if counts[c] == 1))
    for letter, term in terms.items():
        if letter not in target:
            op.contract(term)
            op.consumed += places[letter]
    before, dots, after = target.partition("...")
    lead = broadcast(op, ellipses) if dots and ellipses else []
    return Result([*(terms[c] for c in before), *lead, *(terms[c] for c in after)])


def scaled_dot_product_attention(op: Op) -> Result:
    """attention(query (*, L, E), key (*, S, E), value (*, S, V), mask (*, L, S)) -> (*, L, V)."""
    q, k, v = op.dims("query"), op.dims("key"), op.dims("value")
    if op.args["enable_gqa"]:
        _repeat_heads(op, q, k)
        _repeat_heads(op, q, v)
        q, k, v = op.dims("query"), op.dims("key"), op.dims("value")
        lead = q[:-2]
        for a, b in zip(q[:-3], k[:-3], strict=True):
            op.unify(a, b)
        for a, b in zip(q[:-3], v[:-3], strict=True):
            op.unify(a, b)
    else:
        lead = broadcast(op, [q[:-2], k[:-2], v[:-2]])
    op.unify(q[-1], k[-1])
    op.unify(k[-2], v[-2])
    op.contract(q[-1])
    op.normalise(k[-2])
    if op.has("attn_mask"):
        broadcast(op, [op.dims("attn_mask"), [*lead, q[-2], k[-2]]])
    if op.args["is_causal"]:
        op.fix([q[-2], k[-2]], "positions are in order")
    if len(lead) > 1:
        op.roles += [(lead[-1], "heads")]
    op.roles += [(q[-1], "head_size"), (v[-1], "head_size")]
    return Result([*map(resolve, lead), q[-2], v[-1]])


def _repeat_heads(op: Op, query: Dims, other: Dims) -> None:
    """Grouped-query attention: head h reads key head h // group: heads = key heads x group."""
    kv = size(other[-3])
    pair = split(query[-3], kv, size(query[-3]) // kv)
    if pair is None:
        op.fix([query[-3], other[-3]], "query heads cannot be grouped by key heads")
    else:
        op.unify(pair[0], other[-3])


_WHOLE = "a matrix is taken as a whole"
MATRICES = """
    _linalg_det _linalg_eigh _linalg_slogdet _linalg_solve_ex _linalg_svd cholesky cholesky_inverse
    cholesky_solve det geqrf inverse linalg_cholesky linalg_cholesky_ex linalg_det linalg_eig
    linalg_eigh linalg_eigvals linalg_eigvalsh linalg_inv linalg_inv_ex linalg_ldl_factor
    linalg_matrix_exp linalg_matrix_power linalg_matrix_rank linalg_pinv linalg_qr linalg_slogdet
    linalg_solve linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals logdet
    matrix_exp matrix_power pinverse qr slogdet svd triangular_solve
""".split()

RULES = {
    **dict.fromkeys(MATRICES, matrices),
    **dict.fromkeys(("linalg_matrix_norm", "nuclear_norm"), matrix_norm),
    **dict.fromkeys(("cdist", "_cdist_forward", "_euclidean_dist"), cdist),
    **dict.fromkeys(("pairwise_distance", "cosine_similarity"), distance),
    "dist": dist,
    "pdist": pdist,
    "kron": kron,
    "inner": inner,
    "tensordot": tensordot,
    **dict.fromkeys(("linalg_vecdot", "vecdot"), vecdot),
    **dict.fromkeys(("linalg_cross", "cross"), cross),
    "vdot": matmul,
    "linalg_matmul": matmul,
    "addmv": addmm,
    "addbmm": addbmm,
    "addr": addr,
    "ger": outer,
    "linear": linear,
    "matmul": matmul,
    "mm": matmul,
    "bmm": matmul,
    "mv": matmul,
    "dot": matmul,
    "addmm": addmm,
    "_sparse_addmm": addmm,
    "baddbmm": addmm,
    "bilinear": bilinear,
    "_grouped_mm": grouped,
    "transformers::grouped_mm_fallback": grouped,
    "outer": outer,
    "einsum": einsum,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}
