"""What the classifier of a trained detector reads, recorded once; see ``docs/feature_cache.md``."""

from balms_det.features.make import cache_features
from balms_det.features.manifest import FeatureCacheError, Manifest
from balms_det.features.options import CacheOptions
from balms_det.features.read import FeatureCache, RoITable

__all__ = [
    "CacheOptions",
    "FeatureCache",
    "FeatureCacheError",
    "Manifest",
    "RoITable",
    "cache_features",
]
