"""What the classifier of a trained detector reads, recorded once; see ``docs/feature_cache.md``."""

from balms_det.engine.feature_cache.layout import FeatureCacheError
from balms_det.engine.feature_cache.make import cache_features
from balms_det.engine.feature_cache.manifest import Manifest
from balms_det.engine.feature_cache.reader import FeatureCache
from balms_det.engine.feature_cache.settings import CacheOptions
from balms_det.engine.feature_cache.table import RoITable

__all__ = [
    "CacheOptions",
    "FeatureCache",
    "FeatureCacheError",
    "Manifest",
    "RoITable",
    "cache_features",
]
