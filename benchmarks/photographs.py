"""Names of photographs in; checked local files out, fetched once from Debian and Python packages.

What networks that enhance are trained with, beside the trailers of animated films (enhance_data.py). Licences: Lomiri's
and Plasma's wallpapers are CC-BY-SA or CC-BY-4.0, MATE's CC-BY-SA-4.0, scikit-image's CC0 or in the public domain; the
rest come under the licences of their packages. None is passed on; see tests/CLIPS.md for how they are fetched.
"""

from __future__ import annotations

from pathlib import Path

import archives  # noqa: F401  # puts tests/ on the path
from clips import GRADIO as GRADIO_VIDEOS
from clips import OPENCV_DOC, Clip, Package, fetch

LOMIRI_16 = Package("lomiri-wallpapers-16.04", None, "deb", "usr/share/backgrounds")
LOMIRI_20 = Package("lomiri-wallpapers-20.04", None, "deb", "usr/share/backgrounds")
MATE = Package("mate-backgrounds", None, "deb", "usr/share/backgrounds/mate/nature")
PLASMA = Package("plasma-workspace-wallpapers", None, "deb", "usr/share/wallpapers")
SCIKIT_IMAGE = Package("scikit-image", "0.24.0", "wheel", "skimage/data")
GRADIO = GRADIO_VIDEOS._replace(folder="gradio/media_assets/images")

# fmt: off
# ruff: noqa: E501 (one photograph a line, with its whole SHA-256)
PHOTOGRAPHS: dict[str, Clip] = {
    "bridge": Clip(LOMIRI_16, "Bridge_by_Sander_Klootwijk.jpg", "bd86b081f9975e2b83527f71e49b9271a8ab40885428395969d9f7d834d7f050"),
    "dragonfly": Clip(LOMIRI_16, "Dragonfly_by_Bolly.jpg", "af5af17841009732def24b09bb1e669a1b09d2b4bdeee7812c371101c30d2bb3"),
    "picture_0b": Clip(LOMIRI_16, "Picture_0B_by_freespace.jpg", "c8c0ab18e48d9e0419fe42881112137f3afafc27dfddc29ec3a6d54c56d225ad"),
    "picture_1a": Clip(LOMIRI_16, "Picture_1A_by_freespace.jpg", "89e86af38d04daaef975665dc2127e9fa76f0fd68f4eea105a2d0ae3390b010b"),
    "wine": Clip(LOMIRI_16, "Wine_by_Jakkub_Mede.jpg", "d2e96e6d4da40dd804b3d0ce295e94de04a2d7d9b6785d42cd9d92ba58bced74"),
    "aitzgorri": Clip(LOMIRI_16, "aitzgorri_by_Aitzol_Berasategi.jpg", "66268e7b48f8854d36a28765fac6e23ec1aee251daa6da1f64715f201020ad36"),
    "free": Clip(LOMIRI_16, "free_by_Peter_Nerlich.jpg", "85a5453c2fed514c75973016f3d862aca62eb7ca087618822469274ac1092373"),
    "friends": Clip(LOMIRI_16, "friends_by_Aitzol_Berasategi.jpg", "cc40e313c74e421edffe3403def413c16878ce14661cce7ec5915baeab35538d"),
    "greentock": Clip(LOMIRI_16, "greentock_by_Peter_Nerlich.jpg", "e7b20e2db9dcd6e2b278ca55873c2110b35d89cd38b04d0b18728726888e6889"),
    "life": Clip(LOMIRI_16, "life_by_Aitzol_Berasategi.jpg", "4c119350ead80201fe256850c3d316309ddfb4bdf10b235ce982dcde0c667c05"),
    "picosdeeuropa": Clip(LOMIRI_16, "picosdeeuropa_by_Aitzol_Berasategi.jpg", "414d0072b2f6f2c555deafeaef6e45c4fed6fa9ad26eba6560ca8803959cf97a"),
    "seeding": Clip(LOMIRI_16, "seeding_by_Clements_Engelhardt.jpg", "a5634d1ab5e41a3568e92d4a894a500c92b891f9ff734e50bd224d6e185a605f"),
    "sunset": Clip(LOMIRI_16, "sunset_by_Aitzol_Berasategi.jpg", "474dab6a4b9f94dc76c29dfe30e9f5db4af0fd2e33fe5d695f8152b371efca18"),
    "kleiber": Clip(LOMIRI_20, "Kleiber_by_Lukas_Baubkus.jpg", "6572410c09f4492c74ccadde133565a14c0161617d5917d4c820c66d65a44ba7"),
    "aqua": Clip(MATE, "Aqua.jpg", "5c30118205982da441bf7e6a1ada636a8a0be879408140b3148280c665ed6bce"),
    "blinds": Clip(MATE, "Blinds.jpg", "f7aac0dcc2e06d0491643e84df3da1d9db7c4610f58806a880d56e074799f600"),
    "dune": Clip(MATE, "Dune.jpg", "8a67c2cb0be8c46b70c237311a4fa4d2b4ac7d39568135384787801fa5cc9a91"),
    "garden": Clip(MATE, "Garden.jpg", "d3095ee09d425ef23d27155412136cf14fc3c9af76ca58b452f55e23da324e78"),
    "greenmeadow": Clip(MATE, "GreenMeadow.jpg", "8fa0de0aa4089f7319c9fb7a6d006d4cab6023e8c8853731557cff53567b4832"),
    "ladybird": Clip(MATE, "LadyBird.jpg", "e35a9a4126ef969c90b29c038058c5a575a20eadd84106a37bf1fa9931e7b61d"),
    "raindrops": Clip(MATE, "RainDrops.jpg", "3e4ea9671c28c90a86cf67b3db9daf18c4741587c596333a7529ca589aaa0c16"),
    "storm": Clip(MATE, "Storm.jpg", "77ca53077831d3237f73393a91fc879158abc046d852941c26e90de336356957"),
    "twowings": Clip(MATE, "TwoWings.jpg", "665e5abf8a5399070a91a9a8e455fe071e5b61697ff78fdeda4e9843ef545aeb"),
    "wood": Clip(MATE, "Wood.jpg", "19c78500ac00a622e19907ab9cc7d06d46fe08c4a6142759a84195696150ec07"),
    "yellowflower": Clip(MATE, "YellowFlower.jpg", "254da96256acb7add685679775a04d1e4a5bc8cd13e5a5a3d61351ce198a5306"),
    "bythewater": Clip(PLASMA, "BytheWater/contents/images/2560x1600.jpg", "c272434ef39f2abf1ed48a15a8910088020f3165329a5092f3940ec9464bc05f"),
    "colorfulcups": Clip(PLASMA, "ColorfulCups/contents/images/2560x1600.jpg", "6e0f3a72feb5a4a9fec191b77e34874c3c69e2d93040deb3f07773e73385023d"),
    "eveningglow": Clip(PLASMA, "EveningGlow/contents/images/2560x1600.jpg", "586682dcb362b9f620068f10138f87d0d3649939aef238adc5807cb951976a7a"),
    "fallenleaf": Clip(PLASMA, "FallenLeaf/contents/images/2560x1600.jpg", "95603a6560c7e8d50e0e03b3f4adbe39c5258c72528e74e4ecaea1daf4e499de"),
    "grey": Clip(PLASMA, "Grey/contents/images/2560x1600.jpg", "88c31d8944b7e6935d1b9a296654c692f0772cb512491713eb30a972a604c0ed"),
    "onestandsout": Clip(PLASMA, "OneStandsOut/contents/images/2560x1600.jpg", "cb507baf1dafdcae362264f3aba9483ed4be5f6c9fdd770f0ec0920c6d9e80fd"),
    "path": Clip(PLASMA, "Path/contents/images/2560x1600.jpg", "7477457d7f17b736259f1b021864778ad4ba802cf3214e6728181ff29126bba8"),
    "summer_1am": Clip(PLASMA, "summer_1am/contents/images/2560x1600.jpg", "c868b50789591dd42910153c768053f1ba0a98cb36bbfc2b7a96a1045d0477f8"),
    "astronaut": Clip(SCIKIT_IMAGE, "astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    "coffee": Clip(SCIKIT_IMAGE, "coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    "chelsea": Clip(SCIKIT_IMAGE, "chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    "rocket": Clip(SCIKIT_IMAGE, "rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
    "motorcycle_left": Clip(SCIKIT_IMAGE, "motorcycle_left.png", "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"),
    "aloel": Clip(OPENCV_DOC, "aloeL.jpg", "cce5736808efe80d9f04b118dbb978c344d4345672b332718c3e039a3eeb8eee"),
    "baboon": Clip(OPENCV_DOC, "baboon.jpg", "1a1dd18d78eec44420af3b0b7f08ee3d41c982916cae3ce203d7ff35d754cc0f"),
    "board": Clip(OPENCV_DOC, "board.jpg", "4c9a24ba67138ad5486d550f586cc5dd1161be112f1c1bea336d6c550cdf255f"),
    "building": Clip(OPENCV_DOC, "building.jpg", "742a1baad62ac82e91e718e77eedf7e85c2eddc4badfb8c87c6cbc86c45a8b07"),
    "ela_original": Clip(OPENCV_DOC, "ela_original.jpg", "b55798b35e2dcb24675f0865a2442d0e4887eeb6aff322ecb1968d936cc23e7f"),
    "fruits": Clip(OPENCV_DOC, "fruits.jpg", "9c031d80a1c52da5eca790db896baffec6a7e52bf786cdb7bbfca5c7f880e6a1"),
    "graf1": Clip(OPENCV_DOC, "graf1.png", "1504b769303c7bde00fa578eeaad3c68e02aceabeb1242e556f1f8d19e4bdea5"),
    "leuvena": Clip(OPENCV_DOC, "leuvenA.jpg", "b2977cdbd9fb3f94dadd6f76cf586d145676deb8a22b5f0f42149d21c058c09f"),
    "messi5": Clip(OPENCV_DOC, "messi5.jpg", "1d570e49654e84c7a943918537bd9e5e1ef82920152e147c834006e235be97c9"),
    "rubberwhale1": Clip(OPENCV_DOC, "rubberwhale1.png", "eb312435369dac9efcc92f7e098edbd9ed8d7e6dfede8b3b4d8e3702cd80b796"),
    "tower": Clip(GRADIO, "tower.jpg", "f57f96f7a71f89739d27ae8ffc09f73cd2f17415d16c94d42dcb0d571f4eb0ee"),
    "cheetah": Clip(GRADIO, "cheetah.jpg", "29b0090f5ec471dad0264abc20ecc3c80a0133a63a03d11df920e39a093fe6c8"),
}
# fmt: on


def photographs() -> dict[str, Path]:
    """Paths of all photographs, by name. Raises clips.ClipsUnavailable when a package cannot be had."""
    return fetch(PHOTOGRAPHS, PHOTOGRAPHS)
