r"""MONAI Label app: segmentation, uncertainty, active learning, and fine-tuning that keeps the better model.

    monailabel start_server --app apps/monailabel --studies <folder of scans> --host 127.0.0.1 \
        --conf bundles bundles/<name>

See docs/how-to/monai-label.md.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for pdddpm_label


def stop(message):
    """End the server with one line instead of pages of traceback."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)


try:
    import torch
    from monailabel.interfaces.app import MONAILabelApp
    from monailabel.tasks.activelearning.first import First
    from monailabel.tasks.activelearning.random import Random
    from pdddpm_label.active_learning import DisagreementScoring, LargestDisagreement
    from pdddpm_label.annotations import checked_labels
    from pdddpm_label.bundles import bundle_labels, find_bundles
    from pdddpm_label.inference import Segmentation, Uncertainty
    from pdddpm_label.requests import answer_errors, plain_names_only
    from pdddpm_label.training_task import Training

    from monai_pdddpm.bundle import keep_freed_memory
    from monai_pdddpm.utils.errors import UserError, friendly_errors, user_message
except ModuleNotFoundError as error:
    stop(
        f"{error.name} is not installed for {sys.executable}, which runs the server; expected the packages of "
        "apps/monailabel/requirements.txt, and monai_pdddpm by pip install --no-deps <folder of monai-pdddpm>"
    )


class PDDDPMApp(MONAILabelApp):
    """Serve the bundles named by ``--conf bundles``."""

    def __init__(self, app_dir, studies, conf):
        keep_freed_memory()
        friendly_errors(force=True)
        try:
            self.bundles = find_bundles(conf.get("bundles"), Path(app_dir) / "model")
            names = [bundle_labels(path) for path in self.bundles.values()]
            # annotators paint these labels; the levels of the uncertainty are not among them
            labels = list(dict.fromkeys(name.lower() for one in names for value, name in sorted(one.items()) if value))
            super().__init__(app_dir, studies, conf, "monai-pdddpm", "Segmentation with uncertainty", labels=labels)
        except (UserError, ValueError) as error:
            stop(user_message(error) or error)

    def on_init_complete(self):
        """Answer errors with one line, and check the origin of requests before anything else in the server does."""
        super().on_init_complete()
        if server := sys.modules.get("monailabel.app"):
            answer_errors(server.app)

    def _download_dcmqi_tools(self):
        """Download no program at run time; ``pip install dcmqi`` brings the one that writes DICOM segmentations."""

    def init_datastore(self):
        """Return the studies; requests write into their folder only, and finished labels must fit a bundle."""
        store = super().init_datastore()
        store.add_image, store.save_label = plain_names_only(store.add_image), plain_names_only(store.save_label)
        store.save_label = checked_labels(store, [bundle_labels(path) for path in self.bundles.values()])
        return store

    def init_infers(self):
        """Return the segmentation and the uncertainty of each bundle."""
        segmentations = {name: Segmentation(path, self.conf) for name, path in self.bundles.items()}
        uncertainties = {f"{name}_uncertainty": Uncertainty(path, self.conf) for name, path in self.bundles.items()}
        return segmentations | uncertainties

    def init_trainers(self):
        """Return a training for each bundle that has training configurations."""
        needed = ("train.json", "train_segmenter.json")
        return {
            name: Training(path)
            for name, path in self.bundles.items()
            if all((path / "configs" / file).is_file() for file in needed)
        }

    def init_strategies(self):
        """Return ``uncertainty``, which uses the first bundle, and one strategy per bundle if there are several."""
        own = {name: LargestDisagreement(f"{name}_disagreement") for name in self.bundles}
        several = {f"{name}_uncertainty": strategy for name, strategy in own.items()} if len(own) > 1 else {}
        return {"uncertainty": next(iter(own.values())), **several, "random": Random(), "first": First()}

    def init_scoring_methods(self):
        """Return a score for each bundle."""
        keys = {name: f"{name}_disagreement" for name in self.bundles}
        return {key: DisagreementScoring(self._infers[name], key) for name, key in keys.items()}

    def bundle_path(self, model):
        """Refuse a job of a bundle that is not served, before it starts; no bundle needs its folder on a path."""
        if model is not None and model not in self.bundles:
            raise UserError(f"model: found {model!r}, expected one of {', '.join(self.bundles)}; GET /info/ lists them")

    def infer(self, request, datastore=None):
        """Answer an inference request; store the uncertainty maps of a scan of the studies as labels under their names.

        Raises:
            UserError: if the request or its scan has a mistake.
        """
        store, image = datastore or self.datastore(), request.get("image")
        stored = isinstance(image, str) and not os.path.exists(image)
        if stored and not store.get_image_uri(image):
            raise UserError(f"image: found {image!r}, expected a scan of the studies; GET /datastore/ lists them")
        with tempfile.TemporaryDirectory() as folder:
            try:
                answer = super().infer({**request, "maps": folder if stored else None}, store)
            except Exception as error:
                if message := user_message(error):
                    raise UserError(message) from error
                raise
            for file in sorted(Path(folder).glob("*/*.nii.gz")):
                tag = file.name.removesuffix(".nii.gz").rpartition("_")[2]
                store.save_label(image, str(file), tag, {"model": request["model"]})
        return answer

    def batch_infer(self, request, datastore=None):
        """Segment many scans; those that cannot be segmented do not stop the others, and are listed at the end."""
        if torch.cuda.device_count() == 0:  # MONAI Label divides by it
            request = {**request, "multi_gpu": False, "device": "cpu"}

        errors = []

        def infer(request, datastore):
            try:
                return self.infer(request, datastore)
            except UserError as error:
                errors.append(f"error: {error}")
                return {"error": str(error)}

        result = self._batch_infer(request, datastore or self.datastore(), infer)
        print(*errors, sep="\n", flush=True)  # the status of the job keeps the last lines
        return result
