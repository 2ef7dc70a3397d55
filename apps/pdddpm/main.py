"""MONAI Label app: labels, their uncertainty, the most doubtful scan next, training that keeps the better model.

    monailabel start_server --app apps/pdddpm --studies <folder of scans> --host 127.0.0.1 --conf bundles bundles/<name>

docs/how-to/monai-label.md tells the rest.
"""

import contextlib
import copy
import functools
import json
import logging
import os
import sys
import time
from math import prod
from pathlib import Path


def stop(message):
    """End the server with one line: it would show an exception as pages of traceback."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)


try:
    from fastapi import HTTPException
    from fastapi.responses import JSONResponse
    from monai.bundle import ConfigParser
    from monai.transforms import SaveImaged
    from monailabel.interfaces.app import MONAILabelApp
    from monailabel.interfaces.exception import MONAILabelException
    from monailabel.interfaces.tasks.scoring import ScoringMethod
    from monailabel.interfaces.tasks.train import TrainTask
    from monailabel.tasks.activelearning.epistemic import Epistemic
    from monailabel.tasks.activelearning.first import First
    from monailabel.tasks.activelearning.random import Random
    from monailabel.tasks.infer.bundle import BundleInferTask
    from monailabel.utils.others.generic import device_list, name_to_device

    from monai_pdddpm.bundle import fit_threads, keep_freed_memory, load_network
    from monai_pdddpm.bundle.settings import check_settings
    from monai_pdddpm.data.headers import read_header
    from monai_pdddpm.labelserver import (
        EntropyLevelsd,
        bundle_labels,
        check_annotations,
        find_bundles,
        fine_tune,
        hold_out,
        level_names,
        mean_entropy_near_structure,
        read_pairs,
    )
    from monai_pdddpm.labelserver.training import STAGES
    from monai_pdddpm.utils.checks import check_choice
    from monai_pdddpm.utils.errors import UserError, friendly_errors, user_message
except ModuleNotFoundError as error:
    stop(
        f"{error.name} is not installed for {sys.executable}, which the server runs with; expected all that "
        "docs/how-to/monai-label.md lists; for monai_pdddpm run pip install --no-deps <folder of monai-pdddpm> there"
    )


logger = logging.getLogger(__name__)
OPTIONS = ("members", "num_steps", "seed")
MAPS = ("entropy", "mutual_information")


@contextlib.contextmanager
def told():
    """Let a mistake of the user's reach the client as status 400 with its text, instead of as 500 without."""
    try:
        yield
    except MONAILabelException as error:
        raise HTTPException(status_code=400, detail=error.msg) from error
    except Exception as error:
        if message := user_message(error):
            raise HTTPException(status_code=400, detail=message) from error
        raise


def inside(write):
    """Let a datastore's function write under plain names only: MONAI Label would follow ``../`` out of its folder."""

    @functools.wraps(write)
    def checked(image_id, file, tag_or_info, *others):
        for key, found in (("image", image_id), ("tag", tag_or_info)):
            if isinstance(found, str) and (found != Path(found).name or found == ".."):
                message = f"{key}: found {found!r}, expected a plain name without folders; fix it"
                raise HTTPException(status_code=400, detail=message)
        return write(image_id, file, tag_or_info, *others)

    return checked


def own_pages_alone(served):
    """Refuse what web pages of other sites ask, as their browsers say: MONAI Label would answer to all of them."""

    async def checked(scope, receive, send):
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")
        if scope["type"] == "http" and origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            message = (
                f"Origin: found {origin.decode('latin-1')!r}, expected this server's own; do not ask from other sites"
            )
            await JSONResponse({"detail": message}, status_code=403)(scope, receive, send)
        else:
            await served(scope, receive, send)

    return checked


class Segmentation(BundleInferTask):
    """A bundle's label map; beside it the maps are saved, as NIfTI on the scan's grid, and the numbers are sent.

    Args:
        path: folder of the bundle.
        conf: of the server; may set members, steps and seed.
        maps: folder for the maps; None saves none.
    """

    def __init__(self, path, conf, maps=None):
        self.maps = maps
        super().__init__(str(path), conf)
        own = json.loads(Path(self.bundle_config_path).read_text(encoding="utf-8"))
        chosen = {key: int(conf.get(key, own[key])) for key in OPTIONS}
        check_settings(chosen)
        self._config.update(chosen)
        self.series = own["fourth_dimension"] == "time"
        self.classes = bundle_labels(path)

    def __call__(self, request, callbacks=None):
        """Answer a request; see MONAI Label's ``BasicInferTask``."""
        chosen = {key: request.get(key, self._config[key]) for key in OPTIONS}
        check_settings(chosen)
        image = request.get("image")
        if self.series and isinstance(image, str) and (frames := prod(read_header(image).extra)) > 1:
            raise UserError(
                f"{image}: found {frames} frames, expected one scan, since MONAI Label knows no label map of a series; "
                "segment it with monai.bundle, or serve its frames as files of their own"
            )
        # each request has settings of its own, and others may be at work in threads; the networks are shared
        task = copy.copy(self)
        task.bundle_config = ConfigParser()
        task.bundle_config.read_config(self.bundle_config_path)
        task.bundle_config.config.update({**chosen, "bundle_root": self.bundle_path, "output_dir": str(self.maps)})
        listed = self.maps is not None and Path(str(image)).parent == Path(self.maps).parent
        task.maps = self.maps if listed and not request.get("skip_writer") else None
        return BundleInferTask.__call__(task, request, callbacks)

    def _get_network(self, device, data):
        """Load weights alone, for each device and file once; MONAI Label would load whatever file a request names."""
        files = self._config["model_filename"]
        chosen = (data or {}).get("model_filename") or files
        name = chosen if isinstance(chosen, str) else chosen[0]
        check_choice("model_filename", name, files)
        file = Path(self.bundle_path) / "models" / name
        state = (name, file.stat().st_mtime)
        network, loaded = self._networks.get(device, (None, None))
        if loaded != state:
            network = load_network(copy.deepcopy(self.network), file, device)
            self._networks[device] = (network, state)
        return network

    def _filter_transforms(self, transforms, filters):
        def wanted(transform):
            return not isinstance(transform, SaveImaged) or (self.maps and set(transform.keys) <= set(MAPS))

        return [transform for transform in transforms or [] if wanted(transform)]


class Uncertainty(Segmentation):
    """The entropy of the same answer in four levels, as a label map that the viewer shows."""

    def __init__(self, path, conf, maps=None):
        super().__init__(path, conf, maps)
        self.labels = level_names()
        self.description = "Entropy of the answer, in shares of the largest possible"

    def post_transforms(self, data=None):
        """Put the levels in the place of the classes, before the last transform brings them to the scan's shape."""
        *before, restore = super().post_transforms(data)
        return [*before, EntropyLevelsd("pred", num_classes=len(self.classes)), restore]


class Doubt(ScoringMethod):
    """Score each unannotated scan by `monai_pdddpm.labelserver.doubt`, anew when the model or the settings change."""

    def __init__(self, task, key):
        super().__init__("1 - agreement of the members, and 1 more for a scan unlike the usual")
        self.task = task
        self.key = key

    def __call__(self, request, datastore):
        """Score what has no score by this model and these settings; return how many that were."""
        start = time.time()
        datastore.refresh()
        settings = {key: self.task.config()[key] for key in OPTIONS}
        of = json.dumps([os.stat(self.task.get_path()).st_mtime, settings])
        images = datastore.get_unlabeled_images()
        waiting = [image for image in images if datastore.get_image_info(image).get(f"{self.key}_of") != of]
        for image in waiting:
            try:
                _, data = self.task({"image": datastore.get_image_uri(image), "skip_writer": True, **settings})
                found = {self.key: round(mean_entropy_near_structure(data["result"]), 5), f"{self.key}_note": ""}
            except Exception as error:  # one bad scan does not stop the others
                if (message := user_message(error)) is None:
                    logger.exception(f"{image} was not scored")
                    continue
                found = {self.key: -1.0, f"{self.key}_note": message}  # to be proposed after all others
            logger.info(f"{self.key} of {image}: {found}")
            datastore.refresh()  # the server writes into the same file
            datastore.update_image_info(image, {**found, f"{self.key}_of": of})
        return {"total": len(images), "executed": len(waiting), "seconds": round(time.time() - start, 1)}


class MostDoubtful(Epistemic):
    """Propose the scan with the highest score among those that were not proposed within a day."""

    def __init__(self, key):
        super().__init__(key=key, desc="The scan on which the members of the ensemble agree least")

    def __call__(self, request, datastore):
        """Return the proposed scan's ``id`` and score; the score is null as long as it was not computed."""
        datastore.refresh()  # scores are written by another process
        found = super().__call__(request, datastore)
        return found and {
            "id": found["id"],
            "uncertainty_threshold": datastore.get_image_info(found["id"]).get(self.key),
        }


class Training(TrainTask):
    """Train a bundle on the submitted labels; see `monai_pdddpm.labelserver.fine_tune`."""

    def __init__(self, path):
        super().__init__("Train further on the submitted labels; a worse model is not put in use")
        self.path = Path(path)
        self.outcome = {}

    def config(self):
        """Return what the viewer offers as options, with their defaults."""
        return {
            "stage": list(STAGES),
            "max_epochs": 20,
            "learning_rate": 0.0001,
            "val_split": 0.2,
            "pretrained": True,
            "device": device_list(),
        }

    def stats(self):
        """Return what the last training came to."""
        outcomes = sorted(self.path.glob("runs/label_server/*/outcome.json"))
        return json.loads(outcomes[-1].read_text(encoding="utf-8")) if outcomes else {}

    def __call__(self, request, datastore):
        """Train on all labels with the tag ``final``; return what it came to."""
        options = {**self.config(), **{key: request[key] for key in self.config() if request.get(key) is not None}}
        for key in ("stage", "device"):  # a list until the user has chosen
            options[key] = options[key][0] if isinstance(options[key], list) else options[key]
        options["device"] = name_to_device(options["device"])
        pairs = read_pairs(datastore)
        training, validation = hold_out(pairs, options.pop("val_split"))
        check_annotations(pairs, bundle_labels(self.path))
        outcome = fine_tune(self.path, training, validation, **options)
        print(outcome["message"], flush=True)
        return outcome


class PDDDPMApp(MONAILabelApp):
    """One or more bundles of monai-pdddpm, named by ``--conf bundles``."""

    def __init__(self, app_dir, studies, conf):
        keep_freed_memory()
        fit_threads()
        friendly_errors()
        try:
            self.bundles = find_bundles(conf.get("bundles"), Path(app_dir) / "model")
            names = [bundle_labels(path) for path in self.bundles.values()]
            # without the levels of uncertainty, which nobody paints
            labels = list(dict.fromkeys(name.lower() for one in names for value, name in sorted(one.items()) if value))
            super().__init__(app_dir, studies, conf, "monai-pdddpm", "Segmentation with its uncertainty", labels=labels)
        except (UserError, ValueError) as error:
            stop(user_message(error) or error)

    def on_init_complete(self):
        """Put the check of origins before all that the server does; this is called before its first request."""
        super().on_init_complete()
        if server := sys.modules.get("monailabel.app"):
            server.app.middleware_stack = own_pages_alone(server.app.middleware_stack)

    def init_datastore(self):
        """Return the studies, into whose folder alone requests may write."""
        store = super().init_datastore()
        store.add_image, store.save_label = inside(store.add_image), inside(store.save_label)
        return store

    def init_infers(self):
        """Return for each bundle the segmentation, and its uncertainty."""
        local = not self.studies.startswith(("http://", "https://"))
        maps = os.path.join(self.studies, "uncertainty") if local else None
        segmentations = {name: Segmentation(path, self.conf, maps) for name, path in self.bundles.items()}
        uncertainties = {
            f"{name}_uncertainty": Uncertainty(path, self.conf, maps) for name, path in self.bundles.items()
        }
        return segmentations | uncertainties

    def init_trainers(self):
        """Return a training for each bundle that has the configurations for it."""
        needed = ("train.json", "train_segmenter.json")
        return {
            name: Training(path)
            for name, path in self.bundles.items()
            if all((path / "configs" / file).is_file() for file in needed)
        }

    def init_strategies(self):
        """Return ``uncertainty``, of the first bundle; with several, one more for each."""
        own = {name: MostDoubtful(f"{name}_doubt") for name in self.bundles}
        several = {f"{name}_uncertainty": strategy for name, strategy in own.items()} if len(own) > 1 else {}
        return {"uncertainty": next(iter(own.values())), **several, "random": Random(), "first": First()}

    def init_scoring_methods(self):
        """Return the doubt of each bundle."""
        return {f"{name}_doubt": Doubt(self._infers[name], f"{name}_doubt") for name in self.bundles}

    def infer(self, request, datastore=None):
        """Answer, or tell the client of the user's mistake."""
        with told():
            return super().infer(request, datastore)

    def next_sample(self, request):
        """Propose a scan, or tell the client of the user's mistake."""
        with told():
            return super().next_sample(request)
