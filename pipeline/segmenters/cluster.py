"""Classes of similar pixels: k-means, Gaussian mixtures and mean shift.

A model is fitted once, by scikit-learn, to a sample of pixels that does not depend on the tiling.
Then the class of a pixel depends only on its own features, so classes and their connected pieces
are exact under tiling. The nearest centre is computed pixel by pixel with numba, because a matrix
product may round differently in another window. Classes are numbered by their centres, first
feature first, so a number means the same in every run. Centres are rounded to nine digits, below
which processors differ.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numba
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from pipeline.config.extras import require
from pipeline.errors import JobError, SegmenterError
from pipeline.segmenters import Footprint
from pipeline.segmenters.pixel_features import Features, Flags, Floats, Pixels, rounded

MOST = 254
LEAST_BANDWIDTH = 0.01
"""The least bandwidth, in standard deviations of a feature."""
STRIP = 512
"""Pixels that are processed together."""
AUTO = (2, 3, 4, 5, 6, 7, 8, 9, 10)
"""The numbers of classes that ``auto`` tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters(Features):
    """Classes of pixels that are found in a sample."""

    centres: tuple[tuple[float, ...], ...] | None = None
    """The mean features of each class; None: they are found in the image."""

    def __post_init__(self) -> None:
        Features.__post_init__(self)  # super() does not work in a class with slots
        if self.centres is None:
            require("sklearn", "finding classes of pixels")

    @property
    def footprint(self) -> Footprint:
        """Memory per pixel: the features as floats, before and after smoothing."""
        return Footprint(12.0, 14.0 if self.sigma else 8.0)

    @property
    def unfitted(self) -> bool:
        """Whether a model must still be found in the image."""
        return self.greys_missing or self.centres is None

    def fit(self, rows: Floats) -> Any:
        """Return a copy fitted to a sample of pixels.

        Parameters
        ----------
        rows : float64 ndarray, (pixel, feature)
            The sample.

        Returns
        -------
        Clusters
            A fitted copy.

        Raises
        ------
        SegmenterError
            The image has no valid pixel.
        """
        if not len(rows):
            raise SegmenterError("the image has no valid pixel to find classes in")
        if self.greys_missing:
            return self.with_greys(rows)
        with threadpool_limits(1):  # several threads add in an order of their own
            return self._fitted(rows, self.weigh(rows))

    def _fitted(self, rows: Floats, weights: Floats) -> Any:
        """Return a copy fitted to a sample of features, to be multiplied by the weights."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Centres(Clusters):
    """Classes by the nearest centre, each feature divided by its spread in the sample."""

    weights: tuple[float, ...] | None = None
    """Factors for the features before distances are computed; None: the inverse of their standard
    deviations.
    """

    def _fitted(self, rows: Floats, weights: Floats) -> Any:
        found = self._found(rows * weights) / np.where(weights > 0, weights, 1.0)
        centres = sorted(
            {
                tuple(map(rounded, centre))
                for centre in np.where(weights > 0, found, rows[0]).tolist()
            }
        )
        return replace(self, centres=tuple(centres), weights=tuple(weights.tolist()))

    def classify(
        self, block: Pixels, valid: Flags, origin: tuple[int, ...]
    ) -> npt.NDArray[np.uint8]:
        """Classify the pixels of a block.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.
        origin : tuple of int
            The position in the image of the block's first pixel.

        Returns
        -------
        uint8 ndarray of the shape of ``valid``
            Classes from 1; 0 where a feature is unknown.
        """
        if self.centres is None or self.weights is None:
            raise SegmenterError(
                "the classes are not fitted; call fit() with a sample of pixels first"
            )
        features = self.features(block, valid, origin)
        if len(features) != len(self.weights) or any(
            len(centre) != len(features) for centre in self.centres
        ):
            raise JobError(
                f"centres: of {len(self.weights)} features; allowed: {len(features)}, one for "
                f"each feature of a pixel"
            )
        kinds = _nearest(
            features.reshape(len(features), -1), np.array(self.centres), np.array(self.weights)
        )
        return np.asarray(kinds.reshape(valid.shape))

    def _found(self, rows: Floats) -> Floats:
        """The centres, (class, feature), of weighted features, (pixel, feature)."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class KMeans(Centres):
    """A given number of classes of similar pixels, of about equal spread.

    Use it for land cover and other classes that are not known beforehand. Use ``gmm`` for classes
    of very different extent or shape in feature space, and ``mean_shift`` if the number of classes
    is not known.

    Notes
    -----
    Classes equal those of the untiled image, so the certificate of their pieces is ``proved``.
    Fitting is scikit-learn's, on a sample that does not depend on the tiling.

    References
    ----------
    .. [1] S. P. Lloyd (1982), "Least squares quantization in PCM", IEEE Trans. Information Theory
       28(2), 129-137.
    .. [2] T. Caliński, J. Harabasz (1974), "A dendrite method for cluster analysis", Communications
       in Statistics 3(1), 1-27, for ``auto``.

    Examples
    --------
    >>> import numpy as np
    >>> KMeans(clusters=2)(np.array([[[9.0, 0.0, 8.0], [9.0, 0.0, 1.0]]]))
    array([[1, 2, 3],
           [1, 2, 2]], dtype=int32)
    """

    clusters: int | Literal["auto"] = 5
    """The number of classes, 1 to 254; ``auto``: the number from 2 to 10 that is best by the
    criterion of Caliński and Harabasz.
    """

    sample: int = 20_000
    """The number of pixels to fit to, up to 1000000."""

    portable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Clusters.__post_init__(self)  # super() does not work in a class with slots
        _refuse_number(self.clusters, self.sample)

    def _found(self, rows: Floats) -> Floats:
        from sklearn.cluster import KMeans as Fitter
        from sklearn.metrics import calinski_harabasz_score

        different = len(np.unique(rows, axis=0))
        numbers = AUTO if self.clusters == "auto" else (self.clusters,)
        best = -np.inf
        centres = rows[:1]
        for number in sorted({min(number, different) for number in numbers}):
            fitted = Fitter(number, n_init=10, random_state=0).fit(rows)
            score = (
                calinski_harabasz_score(rows, fitted.labels_)
                if 1 < number < len(rows) and len(numbers) > 1
                else 0.0
            )
            if score > best:
                best = score
                centres = fitted.cluster_centers_
        return np.asarray(centres, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanShift(Centres):
    """Classes of similar pixels, one for each density peak in feature space.

    Use it if the number of classes is not known. The option that matters is ``bandwidth``. Its
    sample is smaller than that of ``kmeans``, so it misses classes of very few pixels.

    Notes
    -----
    Classes equal those of the untiled image, so the certificate of their pieces is ``proved``.
    Fitting is scikit-learn's, on a sample that does not depend on the tiling.

    References
    ----------
    .. [1] D. Comaniciu, P. Meer (2002), "Mean shift: a robust approach toward feature space
       analysis", IEEE Trans. PAMI 24(5), 603-619.

    Examples
    --------
    >>> import numpy as np
    >>> MeanShift(bandwidth=0.5)(np.array([[[9.0, 9.0, 0.0, 0.0, 0.0]]]))
    array([[1, 1, 2, 2, 2]], dtype=int32)
    """

    bandwidth: float | None = None
    """Radius of the kernel, in standard deviations of a feature, more than 0; None: estimated from
    the nearest tenth of the sample.
    """

    sample: int = 2_000
    """The number of pixels to fit to, up to 1000000."""

    portable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Clusters.__post_init__(self)  # super() does not work in a class with slots
        _refuse_number(1, self.sample)
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise JobError(f"bandwidth: {self.bandwidth!r}; allowed: more than 0")

    def _found(self, rows: Floats) -> Floats:
        from sklearn.cluster import MeanShift as Fitter
        from sklearn.cluster import estimate_bandwidth

        bandwidth = self.bandwidth or max(
            estimate_bandwidth(rows, quantile=0.1, random_state=0), LEAST_BANDWIDTH
        )
        with warnings.catch_warnings():
            # then every pixel of the sample is a starting point
            warnings.filterwarnings("ignore", "Binning data failed")
            return np.asarray(
                Fitter(bandwidth=bandwidth, bin_seeding=True).fit(rows).cluster_centers_[:MOST],
                np.float64,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianMixture(Clusters):
    """Classes of similar pixels, each a Gaussian with its own covariance.

    Use it where classes overlap or differ in extent, as spectral signatures do. It needs more
    pixels of each class than ``kmeans``.

    Notes
    -----
    Classes equal those of the untiled image, so the certificate of their pieces is ``proved``.
    Fitting is scikit-learn's, on a sample that does not depend on the tiling.

    References
    ----------
    .. [1] A. P. Dempster, N. M. Laird, D. B. Rubin (1977), "Maximum likelihood from incomplete data
       via the EM algorithm", J. Royal Statistical Society B 39(1), 1-38.
    .. [2] G. Schwarz (1978), "Estimating the dimension of a model", Annals of Statistics 6(2),
       461-464, for ``auto``.

    Examples
    --------
    >>> import numpy as np
    >>> GaussianMixture(clusters=2)(np.array([[[9.0, 8.0, 9.0, 0.0, 1.0, 0.0]]]))
    array([[1, 1, 1, 2, 2, 2]], dtype=int32)
    """

    clusters: int | Literal["auto"] = 5
    """The number of classes, 1 to 254; ``auto``: the number from 1 to 10 with the least Bayesian
    information criterion.
    """

    sample: int = 20_000
    """The number of pixels to fit to, up to 1000000."""

    factors: tuple[tuple[tuple[float, ...], ...], ...] | None = None
    """By class, (feature, feature): the Cholesky factor of the precision matrix, which turns a
    distance from the mean into standard deviations. None: found in the image.
    """

    offsets: tuple[float, ...] | None = None
    """By class, the log density at its mean, weight included. None: found in the image."""

    portable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Clusters.__post_init__(self)  # super() does not work in a class with slots
        _refuse_number(self.clusters, self.sample)

    def _fitted(self, rows: Floats, weights: Floats) -> Any:
        from sklearn.mixture import GaussianMixture as Fitter

        scaled = rows * weights
        different = len(np.unique(rows, axis=0))
        numbers = range(1, AUTO[-1] + 1) if self.clusters == "auto" else (self.clusters,)
        fits = [
            Fitter(number, random_state=0).fit(scaled)
            for number in sorted({min(n, different) for n in numbers})
        ]
        best = min(fits, key=lambda fit: fit.bic(scaled)) if len(fits) > 1 else fits[0]
        return self._with_model(best, rows, weights)

    def _with_model(self, best: Any, rows: Floats, weights: Floats) -> GaussianMixture:
        """Return a copy with scikit-learn's model, in units of the features, classes in order.

        Parameters
        ----------
        best : sklearn.mixture.GaussianMixture
            The model of the weighted features.
        rows : float64 ndarray, (pixel, feature)
            The sample.
        weights : float64 ndarray, (feature,)
            The weights; 0 for a feature of a single value.
        """
        means = np.where(weights > 0, best.means_ / np.where(weights > 0, weights, 1.0), rows[0])
        factors = weights[None, :, None] * best.precisions_cholesky_
        offsets = np.log(best.weights_) + np.log(
            np.diagonal(best.precisions_cholesky_, axis1=1, axis2=2)
        ).sum(axis=1)
        found = sorted(
            (_all_rounded(m), _all_rounded(f), rounded(o))
            for m, f, o in zip(means, factors, offsets, strict=True)
        )
        centres, factors, offsets = zip(*found, strict=True)
        return replace(self, centres=centres, factors=factors, offsets=offsets)

    def classify(
        self, block: Pixels, valid: Flags, origin: tuple[int, ...]
    ) -> npt.NDArray[np.uint8]:
        """Classify the pixels of a block.

        Parameters
        ----------
        block : ndarray, (band, row, column) or (band, plane, row, column)
            The pixels of one window.
        valid : bool ndarray of the shape ``block.shape[1:]``
            True where a pixel was measured.
        origin : tuple of int
            The position in the image of the block's first pixel.

        Returns
        -------
        uint8 ndarray of the shape of ``valid``
            Classes from 1; 0 where a feature is unknown.
        """
        if self.centres is None:
            raise SegmenterError(
                "the classes are not fitted; call fit() with a sample of pixels first"
            )
        features = self.features(block, valid, origin)
        model = np.array(self.centres), np.array(self.factors), np.array(self.offsets)
        if model[0].shape[1] != len(features):
            raise JobError(
                f"centres: of {model[0].shape[1]} features; allowed: {len(features)}, one for "
                f"each feature of a pixel"
            )
        return np.asarray(
            _likeliest(features.reshape(len(features), -1), *model).reshape(valid.shape)
        )


def _refuse_number(clusters: object, sample: object) -> None:
    if clusters != "auto" and (
        isinstance(clusters, bool) or not isinstance(clusters, int) or not 1 <= clusters <= MOST
    ):
        raise JobError(f"clusters: {clusters!r}; allowed: 1 to {MOST}, or 'auto'")
    fewest = clusters if isinstance(clusters, int) else 2
    if isinstance(sample, bool) or not isinstance(sample, int) or not fewest <= sample <= 1_000_000:
        raise JobError(
            f"sample: {sample!r}; allowed: {fewest} to 1000000 pixels, no fewer than clusters"
        )


def _all_rounded(array: Any) -> Any:
    return tuple(map(_all_rounded, array)) if np.ndim(array) else rounded(float(array))


@numba.njit(cache=True, nogil=True)
def _nearest(features, centres, weights):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The number, from 1, of the centre nearest to each pixel; 0 where a feature is not finite.

    Of equally near centres the first wins. Works on a strip of pixels at a time, so that the
    compiler vectorizes the loops.
    """
    number = features.shape[1]
    kinds = np.zeros(number, np.uint8)
    least = np.empty(STRIP)
    distance = np.empty(STRIP)
    for low in range(0, number, STRIP):
        count = min(STRIP, number - low)
        least[:] = np.inf
        which = kinds[low : low + count]
        for k in range(centres.shape[0]):
            distance[:] = 0.0
            for f in range(features.shape[0]):
                values = features[f, low : low + count]
                centre = centres[k, f]
                weight = weights[f]
                for i in range(count):
                    step = (values[i] - centre) * weight
                    distance[i] += step * step
            for i in range(count):
                closer = distance[i] < least[i]  # false for NaN
                least[i] = distance[i] if closer else least[i]
                which[i] = k + 1 if closer else which[i]
    return kinds


@numba.njit(cache=True, nogil=True)
def _likeliest(features, centres, factors, offsets):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The number, from 1, of each pixel's most likely class; 0 where a feature is not finite."""
    number = features.shape[0]
    kinds = np.zeros(features.shape[1], np.uint8)
    for i in range(features.shape[1]):
        best = -np.inf
        for k in range(centres.shape[0]):
            total = 0.0
            for g in range(number):
                step = 0.0
                for f in range(number):
                    step += (features[f, i] - centres[k, f]) * factors[k, f, g]
                total += step * step
            score = offsets[k] - 0.5 * total
            if score > best:
                best = score
                kinds[i] = k + 1
    return kinds
