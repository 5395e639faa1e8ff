"""`(Σ G_i + ρ·I) (W − A) = Σ G_i (W_i − A)` for one set of grams, in no more precision than it needs.

Where the system is positive definite its solution does not depend on what the differences are taken from: taken from
one of the experts, its own product is zero and is not computed. `Σ G_i + ρ·I` and its Cholesky factor have the memory
of one matrix; each `G_i` passes in strips, for the sum and again for each layer's right side.

The arithmetic is float32, whose error is measured: of some of the layer's outputs the residual is computed in
float64, and what the factor makes of it is how far off they are. Where that is too much, one step of refinement with
the residual in float64 is enough unless the system is badly conditioned; then all of it is done in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fusehub.errors import BadStatistics
from fusehub.methods.base import LayerStatistics, Note
from fusehub.utils.devices import has_float64, wide
from fusehub.utils.on_demand import rows_of
from fusehub.utils.symmetric import Factorized, add_strip_product, bounds, mirror, spaced

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fusehub.utils.symmetric import Strip

# Grams are summed and stored in float32: below this, relative to the unit diagonal and for one feature,
# a pivot says nothing but rounding.
_GRAM_EPS = 2.0**-23
# An eigenvalue this far below zero is more than any way of storing grams makes of their rounding.
_NOT_SQUARES = 1e-3
# Systems of fewer inputs cost so little that nothing is worth losing for less.
SMALL = 256
# A smaller pivot says that float32 will not do, before anything is solved.
_PIVOT_32 = 1e-3
# How wrong merged weights may be, ‖error‖ / ‖W‖; half of what is promised, since only some outputs are looked at.
TOLERANCE = 5e-6
_SAMPLE = 16
# Outputs are solved this many numbers at a time, which bounds the memory of the right side.
_NUMBERS = 2**24
# Strips of all terms, in float32, are kept up to so many bytes: they are wanted for the factor and for each layer that
# shares it, and to unpack small ones takes nearly as long as to multiply by them.
_KEPT = 2**24

PRECISIONS = ("float32", "refined", "float64")
"""From the coarsest: float32; float32 with the residual in float64; float64."""


@dataclass(frozen=True)
class Term:
    """One expert's `G = w·(α·S + (1−α)·diag(S))`, of `[x, 1]` in the place of x where it is `affine`."""

    index: int
    statistic: LayerStatistics
    weight: float
    alpha: float
    affine: bool

    def diagonal(self) -> Tensor:
        """The diagonal of `G`: [n], float64."""
        import torch

        diagonal = self.statistic.diagonal().double()
        if self.affine:
            diagonal = torch.cat([diagonal, diagonal.new_tensor([self.statistic.rows])])
        return diagonal * (self.weight * self._growth)

    def strips(self, dtype: torch.dtype, device: str) -> Iterator[Strip]:
        """The strips of `G` (see `fusehub.utils.symmetric`)."""
        import torch

        total = self.statistic.total.to(dtype).to(device) if self.affine else None
        size = 0
        for start, rows in self.statistic.strips(dtype, device):
            size = start + len(rows)
            if total is not None:
                rows = torch.cat([rows, total[start:size, None]], dim=1)
            diagonal = rows.diagonal() * (self.weight * self._growth)
            rows.mul_(self.weight * self.alpha)
            rows.diagonal().copy_(diagonal)
            yield start, rows
        if self.affine:
            yield size, torch.tensor([[self.statistic.rows * self.weight * self._growth]], dtype=dtype, device=device)

    @property
    def _growth(self) -> float:
        """Where the rest was rounded, the diagonal grows, unless alpha has left it so much larger already."""
        return max(1.0, self.alpha * (1 + self.statistic.shift))


@dataclass(frozen=True)
class Solved:
    """A layer's merged weight, [out, n] in the dtype of the experts', and the finest arithmetic that it took."""

    weight: Tensor
    precision: str


class System:
    """`Σ G_i + ρ·I` of one set of grams, factorised when it is first solved; layers with the same inputs share it.

    `weights` are what each expert's `S` is multiplied by; an expert of weight zero has no say. `name` is what a
    refusal calls the layer; None where rounding can make the grams look like those of no inputs. What takes long is
    done on `device`, but float64 on the CPU where that has none; weights come and go on the CPU.
    """

    def __init__(
        self,
        statistics: Sequence[LayerStatistics],
        weights: Sequence[float],
        *,
        alpha: float,
        ridge: float = 0.0,
        affine: bool = False,
        name: str | None = None,
        device: str = "cpu",
    ) -> None:
        import torch

        self._device, self._wide_device = device, device if has_float64(device) else "cpu"
        pairs = enumerate(zip(statistics, weights, strict=True))
        self._terms = [Term(index, own, weight, alpha, affine) for index, (own, weight) in pairs if weight]
        self._alpha, self._ridge, self._name = alpha, ridge, name
        diagonal = self._terms[0].diagonal()
        for term in self._terms[1:]:
            diagonal += term.diagonal()
        self._diagonal = diagonal.add_(ridge)
        self._dead = diagonal <= 0
        self._any_dead = bool(self._dead.any())
        tiny = torch.finfo(torch.float64).tiny
        self._scale = torch.where(self._dead, 0.0, diagonal.clamp_min(tiny).rsqrt())
        # One at a time: a second matrix would be as large as the first.
        self._factorized: Factorized | None = None
        self._narrow_fails = False
        self._eigen: tuple[Tensor, Tensor] | None = None
        self._kept: dict[int, list[Strip]] = {}
        self.notes: tuple[Note, ...] = ()
        if self._any_dead:
            told = f"{int(self._dead.sum())} of {len(diagonal)} input features never used: kept at the anchor"
            self.notes = (Note("inputs-unused", told),)

    def solve(self, weights: Sequence[Tensor], anchor: Callable[[slice], Tensor]) -> Solved:
        """The merged weight of the experts' `weights`, [out, n] each, of which one is looked at after the other;
        `anchor` gives rows of the anchor."""
        import torch

        merged = torch.empty_like(weights[0])
        outputs, size = merged.shape
        found: set[str] = set()
        step = max(_SAMPLE, _NUMBERS // size)
        for start in range(0, outputs, step):
            rows = slice(start, min(outputs, start + step))
            merged[rows], precision = self._solve(rows_of(weights, rows), partial(anchor, rows))
            found.add(precision)
        return Solved(merged, max(found, key=PRECISIONS.index))

    def _solve(self, weights: Sequence[Tensor], anchor: Callable[[], Tensor]) -> tuple[Tensor, str]:
        reference = weights[self._terms[-1].index]
        if self._alpha == 0:
            merged, precision = reference + self._solve_diagonal(weights, reference, anchor), "float64"
        else:
            merged, precision = self._solve_narrow(weights, reference, anchor) or (
                self._solve_wide(weights, reference, anchor),
                "float64",
            )
        if self._any_dead:
            merged[:, self._dead] = anchor()[:, self._dead]
        return merged, precision

    def _solve_diagonal(self, weights: Sequence[Tensor], reference: Tensor, anchor: Callable[[], Tensor]) -> Tensor:
        """The step from `reference` where nothing but the diagonals counts."""
        step = reference.new_zeros(reference.shape, dtype=self._diagonal.dtype)
        for term in self._terms[:-1]:
            step += term.diagonal() * (weights[term.index] - reference)
        if self._ridge:
            step += self._ridge * (anchor() - reference)
        return step.mul_(self._scale).mul_(self._scale).to(reference.dtype)

    def _solve_narrow(
        self, weights: Sequence[Tensor], reference: Tensor, anchor: Callable[[], Tensor]
    ) -> tuple[Tensor, str] | None:
        """The merged weight by a factor in float32, refined where it must be; None where that would not do."""
        import torch

        factorized = self._narrow()
        if factorized is None:
            return None
        outputs, size = reference.shape
        sample = torch.arange(0, outputs, max(1, -(-outputs // _SAMPLE)))
        scale, exact_scale = self._scaling(torch.float32), self._scaling(torch.float64)
        right = spaced(outputs, size, dtype=torch.float32, device=self._device)
        exact = torch.zeros(len(sample), size, dtype=torch.float64, device=self._wide_device)
        for weight, strips in self._pulls(weights, reference, anchor, torch.float32):
            delta = weight - reference
            narrow = delta.float().to(self._device)
            sampled = (weight[sample].double() - reference[sample]).to(self._wide_device)
            del weight, delta  # They are as large as what comes now.
            for start, rows in strips:
                add_strip_product((start, wide(rows)), sampled, exact)
                add_strip_product((start, rows), narrow, right)
        found = factorized.solve(right.mul_(scale))
        looked_at = wide(found[sample.to(found.device)])
        residual = exact.mul_(exact_scale).sub_(factorized.times(looked_at))
        error = _length(factorized.solve(residual.float().to(self._device)) * scale)
        step = _length(looked_at * exact_scale)
        merged = reference + found.mul_(scale).cpu()
        most = TOLERANCE * _length(merged[sample])
        if error <= most:
            return merged, "float32"
        if not error * error <= most * step:
            return None  # Refinement divides an error by as much as the step is larger than the error.
        return self._refined(merged, weights, anchor, factorized), "refined"

    def _refined(
        self, merged: Tensor, weights: Sequence[Tensor], anchor: Callable[[], Tensor], factorized: Factorized
    ) -> Tensor:
        """`merged`, and what the factor makes of its residual in float64."""
        import torch

        residual = torch.zeros(merged.shape, dtype=torch.float64, device=self._wide_device)
        for weight, strips in self._pulls(weights, merged, anchor, torch.float64, everyone=True):
            delta = (weight.double() - merged).to(self._wide_device)
            del weight
            for strip in strips:
                add_strip_product(strip, delta, residual)
        found = factorized.solve(residual.mul_(self._scaling(torch.float64)).float().to(self._device))
        return merged + found.mul_(self._scaling(torch.float32)).cpu()

    def _solve_wide(self, weights: Sequence[Tensor], reference: Tensor, anchor: Callable[[], Tensor]) -> Tensor:
        """The merged weight in float64, by a factor or, where the inputs do not span all directions, by a
        pseudo-inverse about the anchor."""
        import torch

        factorized = self._wide()
        start = reference if factorized is not None else anchor()
        right = torch.zeros(reference.shape, dtype=torch.float64, device=self._wide_device)
        for weight, strips in self._pulls(weights, start, anchor, torch.float64, everyone=factorized is None):
            delta = (weight.double() - start).to(self._wide_device)
            del weight
            for strip in strips:
                add_strip_product(strip, delta, right)
        scale = self._scaling(torch.float64)
        right.mul_(scale)
        if factorized is not None:
            found = factorized.solve(right)
        else:
            assert self._eigen is not None  # Found where there is no factor.
            inverse, vectors = self._eigen
            found = (right @ vectors).mul_(inverse) @ vectors.T
        return start + found.mul_(scale).cpu().to(start.dtype)

    def _place(self, dtype: torch.dtype) -> str:
        """Where numbers of that dtype are computed with."""
        import torch

        return self._wide_device if dtype == torch.float64 else self._device

    def _scaling(self, dtype: torch.dtype) -> Tensor:
        """What columns are multiplied by to be of the system scaled to a unit diagonal: [n]."""
        return self._scale.to(dtype).to(self._place(dtype))

    def _pulls(
        self,
        weights: Sequence[Tensor],
        start: Tensor,
        anchor: Callable[[], Tensor],
        dtype: torch.dtype,
        *,
        everyone: bool = False,
    ) -> Iterator[tuple[Tensor, Iterable[Strip]]]:
        """What pulls the solution away from `start`: each weight that does, and the strips of the matrix by which.

        The last expert is left out unless `everyone` is said: it is where the solve starts from.
        """
        import torch

        for term in self._terms if everyone else self._terms[:-1]:
            weight = weights[term.index]
            if not torch.equal(weight, start):
                yield weight, self._strips(term, dtype)
            del weight  # One at a time.
        if self._ridge:
            yield anchor(), self._ridge_strips(dtype)

    def _strips(self, term: Term, dtype: torch.dtype) -> Iterable[Strip]:
        """Those of one term, where it is computed with them; not to be written into."""
        import torch

        strips = term.strips(dtype, self._place(dtype))
        if dtype != torch.float32 or 2 * len(self._terms) * len(self._diagonal) ** 2 > _KEPT:
            return strips
        if term.index not in self._kept:
            self._kept[term.index] = list(strips)
        return self._kept[term.index]

    def _ridge_strips(self, dtype: torch.dtype) -> Iterator[Strip]:
        import torch

        for start, stop in bounds(len(self._diagonal)):
            rows = torch.zeros(stop - start, len(self._diagonal) - start, dtype=dtype, device=self._place(dtype))
            rows.diagonal().fill_(self._ridge)
            yield start, rows

    def _narrow(self) -> Factorized | None:
        """The factor in float32; None where it is known not to do, or is not worth it."""
        import torch

        if len(self._diagonal) < SMALL or self._narrow_fails:
            return None
        factorized = self._factor(torch.float32)
        self._narrow_fails = not (factorized.ok and factorized.least_pivot > _PIVOT_32)
        if self._narrow_fails:
            self._factorized = None
            return None
        return factorized

    def _wide(self) -> Factorized | None:
        """The factor in float64; None where some pivot is within rounding of the stored grams of zero. Then the
        pseudo-inverse is there."""
        import torch

        if self._eigen is not None:
            return None
        factorized = self._factor(torch.float64)
        if factorized.ok and factorized.least_pivot > len(self._diagonal) ** 0.5 * _GRAM_EPS:
            return factorized
        self._factorized = None
        self._eigen = _pseudo_inverse(factorized.restored(), self._name)
        rank = int((self._eigen[0] > 0).sum() - self._dead.sum())
        told = f"inputs span {rank} of {len(self._diagonal)} directions: the rest kept at the anchor"
        self.notes = (*self.notes, Note("inputs-dependent", told))
        return None

    def _factor(self, dtype: torch.dtype) -> Factorized:
        """`Σ G_i + ρ·I`, scaled to a unit diagonal, summed and factorised, unless that is at hand."""

        if self._factorized is not None and self._factorized.dtype == dtype:
            return self._factorized
        self._factorized = None  # Its memory is needed.
        place = self._place(dtype)
        total = spaced(len(self._diagonal), len(self._diagonal), dtype=dtype, device=place)
        for term in self._terms:
            for start, rows in self._strips(term, dtype):
                total[start : start + len(rows), start:] += rows
        total.diagonal().add_(self._ridge)
        scale = self._scaling(dtype)
        for start, stop in bounds(len(total)):
            total[start:stop, start:].mul_(scale[start:stop, None]).mul_(scale[start:])
        total.diagonal()[self._dead.to(place)] = 1.0
        mirror(total)
        self._factorized = Factorized(total)
        return self._factorized


def _length(values: Tensor) -> float:
    return float(wide(values).norm())


def _pseudo_inverse(correlations: Tensor, name: str | None) -> tuple[Tensor, Tensor]:
    """The pseudo-inverse's eigenvalues (zero where the inputs say nothing) and eigenvectors.

    Raises `BadStatistics` naming `name`, where it is given, if these are the grams of no inputs.
    """
    import torch

    values, vectors = torch.linalg.eigh(correlations)
    if name is not None and float(values[0]) < -_NOT_SQUARES:
        raise BadStatistics(
            f"{name}: the grams are no sums of squares. They have the eigenvalue {float(values[0]):.2g}, relative to "
            "their diagonal.",
            "Find the statistics that are broken with `fusehub inspect`, and make them again.",
        )
    cut = len(correlations) ** 0.5 * _GRAM_EPS * values.max()
    return torch.where(values > cut, 1 / values, 0.0), vectors
