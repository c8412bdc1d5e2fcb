"""The systems whose scores stand side by side, and how people call them."""

from detection.names import NAMES as BACKENDS

NAMES = {
    # back-ends of the detector, see `detection.names`
    "combined": "combined",
    "label_free": "combined, without labels",
    "negative_log_probability": "−log p (the paper's)",
    "finetuned_mahalanobis": "fine-tuned, Mahalanobis",
    "finetuned_nearest_neighbour": "fine-tuned, nearest neighbour",
    "finetuned_local_density": "fine-tuned, local density",
    "finetuned_gaussian_mixture": "fine-tuned, Gaussian mixture",
    "pretrained_mahalanobis": "pretrained, Mahalanobis",
    "pretrained_nearest_neighbour": "pretrained, nearest neighbour",
    "pretrained_local_density": "pretrained, local density",
    "pretrained_gaussian_mixture": "pretrained, Gaussian mixture",
    "logmel_mahalanobis": "log-mel Mahalanobis",
    "modulation_mahalanobis": "modulation Mahalanobis",
    # simple methods
    "rms": "level alone",
    "logmel_nearest_neighbour": "log-mel nearest neighbour",
    # peers
    "autoencoder": "DCASE 2020 autoencoder",
    "mobilenetv2": "MobileNetV2",
    "stgram_mfn": "STgram-MFN",
    "aadcl": "AADCL",
    "gmade": "GMADE",
    "glow_aff": "Glow_Aff",
    "subcluster_adacos": "sub-cluster AdaCos",
}
NO_TYPES = ("average", "false_alarms", "beside", "domains")  # keys of metrics/score.json that are no machine types
# The simple methods: they need no network. A run may lack the last, the autoencoder.
REFERENCES = ("rms", "logmel_nearest_neighbour", "logmel_mahalanobis", "modulation_mahalanobis", "autoencoder")
NETWORKS = tuple(name for name in BACKENDS if name not in REFERENCES)  # back-ends that need the trained networks
PEERS = tuple(NAMES)[tuple(NAMES).index("autoencoder") :]  # a run has those of score.peers
